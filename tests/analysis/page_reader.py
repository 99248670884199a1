"""A page as a parser reads it, and the package's command line."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).parents[2] / "experiments" / "analysis"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Collects text, tags and attributes of a page and fails on tags that do not match."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def images(self) -> list[str]:
        return [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]


def run_command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m bipo_analysis` on the arguments, with additions to the environment."""
    return subprocess.run([sys.executable, "-m", "bipo_analysis", *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER), **environment})
