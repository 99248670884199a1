"""The pages that document the project, their code blocks and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2]
README = SOURCE / "README.md"
DOCS = sorted((SOURCE / "docs").glob("*.md"))
# slurm/README.md is not among them: tests/slurm/readme_test.py runs its commands, which need a Slurm.
PAGES = [README, *DOCS, SOURCE / "experiments" / "analysis" / "README.md"]

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of its first line in the page, from 1
    language: str  # "" for output and drawings
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(SOURCE)}:{self.line}\n{self.text}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], found[2]) for found in FENCE.finditer(text)]


def python_block(page: Path, *parts: str) -> str:
    """The one block of Python on the page that contains all of `parts`."""
    found = [block.text for block in blocks(page)
             if block.language == "python" and all(part in block.text for part in parts)]
    assert len(found) == 1, f"{page} has {len(found)} blocks of Python with {parts}"
    return found[0]


def links(page: Path) -> list[str]:
    """The targets of all links and pictures of a page, outside its code blocks."""
    return LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names by which a link may point into a page, as GitHub makes them from headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
