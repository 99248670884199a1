"""Which of many like cases the default run takes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def every_second(cases: Iterable[object]) -> list[object]:
    """The cases; the second, the fourth and so on are left to the label long."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long) if place % 2 else case
            for place, case in enumerate(cases)]


def seldom(*values: object):
    """A case of `values` that is left to the label long."""
    return pytest.param(*values, marks=pytest.mark.long)
