"""Numbers and lists as the report words them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

UNKNOWN_TEXT = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(share: float, digits: int = 1) -> str:
    """A share from 0 to 1: 0.76 is "76.0 %", which no line break cuts."""
    return UNKNOWN_TEXT if math.isnan(share) else f"{100 * share:.{digits}f}{NO_BREAK}%".replace("-", _MINUS)


def points(difference: float) -> str:
    """A difference of two shares in percentage points: 0.42 is "42.0 points"."""
    return UNKNOWN_TEXT if math.isnan(difference) else f"{100 * difference:.1f} points".replace("-", _MINUS)


def point_range(low: float, high: float) -> str:
    """The bounds of a difference of shares, in percentage points."""
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", _MINUS)


def number(value: object, digits: int = 2) -> str:
    """A figure with a fixed count of decimals."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return UNKNOWN_TEXT
    return f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float, digits: int = 2) -> str:
    """A figure whose sign matters."""
    return UNKNOWN_TEXT if math.isnan(value) else f"{value:+.{digits}f}".replace("-", _MINUS)


def multiplier(value: float) -> str:
    """A multiplier of the vector with its sign: "−2", "0", "+1.5"."""
    return "0" if value == 0 else f"{value:+g}".replace("-", _MINUS)


def at_multiplier(value: float) -> str:
    """"at +2", or "without steering"."""
    return "without steering" if value == 0 else f"at {multiplier(value)}"


def span(low: float, high: float, digits: int = 2) -> str:
    """The bounds of an interval: "0.41 to 0.52"."""
    return f"{number(float(low), digits)} to {number(float(high), digits)}"


def plain(value: object) -> str:
    """A setting as a user would type it: no needless zeros, true and false in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return UNKNOWN_TEXT if math.isnan(value) else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    return "none" if value is None or value == "" else str(value)


def duration(seconds: float) -> str:
    """Wall time in the unit that suits it."""
    if math.isnan(seconds):
        return UNKNOWN_TEXT
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def counted(count: int, noun: str) -> str:
    """"1 cell", "2 cells"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def joined(items: Sequence[str]) -> str:
    """"a, b and c"."""
    return ", ".join(items) if len(items) < 2 else f"{', '.join(items[:-1])} and {items[-1]}"


def value_list(values: Iterable[object], most: int = 12) -> str:
    """Values of an axis; whole numbers at even distances as first, second, ..., last where they are many."""
    listed = list(values)
    if len(listed) <= most:
        return ", ".join(plain(value) for value in listed)
    gaps = {after - before for before, after in itertools.pairwise(listed) if isinstance(after, int)}
    shown = listed[:2] if len(gaps) == 1 else listed[:most - 2]
    return f"{', '.join(plain(value) for value in shown)}, …, {plain(listed[-1])}"


def axis_values(values: dict[str, object]) -> str:
    """The values of some axes: "lr 0.0005, sign batch", "single layers" or "layers 0+2 jointly"."""
    return ", ".join(_axis_value(name, value) for name, value in values.items())


def _axis_value(name: str, value: object) -> str:
    if name == "joint_layers":
        return f"layers {value} jointly" if value else "single layers"
    return f"{name.replace('_', ' ')} {plain(value)}"


def last_part(path: object) -> str:
    """A path without its folders."""
    return str(path or "").rstrip("/").rpartition("/")[2]
