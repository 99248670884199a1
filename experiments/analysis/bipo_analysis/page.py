"""HTML by elements: text is escaped unless it was built here."""

from __future__ import annotations

import base64
import datetime
import html
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from .wording import plain

# A table stands open up to this length.
MOST_OPEN_ROWS = 40


class Markup(str):
    """HTML that is safe to place as it is; any other text is escaped."""


def element(name: str, *children: str, **attributes: str) -> Markup:
    """<name attributes>children</name>; a trailing underscore of an attribute (class_) is dropped."""
    listed = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{listed}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """The parts one after another, each escaped unless it is Markup."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def with_code(text: str) -> Markup:
    """A sentence in which what stands between backquotes is marked up as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return joined([text])  # a backquote by itself is one
    return joined(element("code", part) if place % 2 else part for place, part in enumerate(parts))


def figure(svg: str, description: str, caption: str, wide: bool = False) -> Markup:
    """A plot with its caption.  The SVG is an image of its own, so that its ids meet no other plot's."""
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    image = Markup(f'<img src="{source}" alt="{html.escape(description)}">')
    return element("figure", image, element("figcaption", caption), class_="wide" if wide else "plot")


def known_figures(*plots: tuple[str | None, str, str]) -> list[Markup]:
    """Those plots that there are, each given as SVG, description and caption."""
    return [figure(svg, description, caption) for svg, description, caption in plots if svg is not None]


def plot_grid(plots: Sequence[Markup]) -> Markup:
    """Plots beside each other where there is room."""
    return element("div", *plots, class_="plots")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], texts: Collection[str] = ()) -> Markup:
    """A table in a box that scrolls sideways; all columns but those headed `texts` are aligned as figures.

    The style sheet gives room to a column of names, headed "cell", and leaves it out in print where it stands last.
    """
    kinds = ["text name" if header == "cell" else "text" if header in texts else "figure" for header in headers]
    head = element("tr", *(element("th", header, class_=kind) for header, kind in zip(headers, kinds, strict=True)))
    body = (element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
            for row in rows)
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def with_interval(value: str, interval: str) -> Markup:
    """A table's figure with its interval in small below it."""
    return joined((value, element("span", interval, class_="interval")))


def warning(text: str) -> Markup:
    """A sentence that no reader must miss."""
    return element("p", with_code(text), class_="warning", role="note")


def folded(part: Markup, label: str) -> Markup:
    """The part behind a label that opens it."""
    return element("details", element("summary", label), part)


def listing(headers: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[str], what: str) -> Markup:
    """A table, behind a label that counts `what` where it is long."""
    whole = table(headers, rows, texts)
    return whole if len(rows) <= MOST_OPEN_ROWS else folded(whole, f"Show all {len(rows)} {what}")


def setting_list(settings: Mapping[str, object]) -> Markup:
    """Settings by name, in columns."""
    rows = (element("div", element("dt", name.replace("_", " ")), element("dd", plain(value)))
            for name, value in settings.items())
    return element("dl", *rows, class_="settings")


def key_figures(entries: Iterable[tuple[str, str, str]]) -> Markup:
    """Boxes with a label, a large value and a remark each."""
    boxes = (element("div", element("dt", label), element("dd", value, class_="value"), element("dd", remark))
             for label, value, remark in entries)
    return element("dl", *boxes, class_="key")


def document(title: str, body: str) -> str:
    """A whole page that needs nothing but itself."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = joined((Markup('<meta charset="utf-8">'),
                   Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                   element("title", title), element("style", Markup(style))))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def time_of_report() -> str:
    """Now, to the minute."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def write_page(text: str, out: str | Path) -> None:
    """Writes a page to `out`, replacing it whole or not at all."""
    out = Path(out)
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
