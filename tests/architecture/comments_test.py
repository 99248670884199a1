"""Comments in the C++ sources begin with a subject or a verb, not with a genitive."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]

# Skips string and character literals, so that only a real // matches; digit separators (1'000) are no literals.
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"' r"|(?<!\w)'(?:\\.|[^'\\])*'" r"|//[/!<]*\s*(?P<comment>.*)")
REFUSED = re.compile(r"(?:That of|Of|Those|What of)\b")


def comments(text: str) -> list[tuple[int, str]]:
    """Returns every comment with the number of its first line; whole comment lines in a row are one comment."""
    found = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        match = next((token for token in TOKEN.finditer(line) if token["comment"] is not None), None)
        continues = inside and match is not None and line.lstrip().startswith("//")
        if match and not continues:
            found.append((number, match["comment"]))
        inside = match is not None and line.lstrip().startswith("//")
    return found


def problems(path: str, text: str) -> list[str]:
    return [f"{path}:{number}: a comment begins with '{refused.group()}': {comment}"
            for number, comment in comments(text) if (refused := REFUSED.match(comment))]


def sources() -> list[str]:
    """Returns the C++ files of the repository."""
    listed = subprocess.run(["git", "-C", str(SOURCE), "ls-files", "-z", "*.cpp", "*.hpp"],
                            check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and (SOURCE / path).exists()]


def test_the_projects_comments_begin_well():
    paths = sources()
    assert len(paths) > 300
    assert [problem for path in paths
            for problem in problems(path, (SOURCE / path).read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(("text", "line", "words"), [
    ("// Of a new run: its day.\nint day();\n", 1, "Of"),
    ("int a;\n\n  // That of the root.\nint b;\n", 3, "That of"),
    ("int a = 0;  // Those that remain\n", 1, "Those"),
    ("/// What of a file is missing.\nint a;\n", 1, "What of"),
    ("auto url = \"http://host\";  // Of the server\n", 1, "Of"),
    ("int a = 1'000;  // Of all\n", 1, "Of"),
    ("int a;  // first\n// Of the second\nint b;\n", 2, "Of"),
])
def test_a_genitive_at_the_start_is_found(text, line, words):
    assert [problem.split(": ")[:2] for problem in problems("made/up.cpp", text)] == [
        [f"made/up.cpp:{line}", f"a comment begins with '{words}'"]]


@pytest.mark.parametrize("text", [
    "// Returns the day of a new run.\nint day();\n",
    "// Offsets in bytes.\nint a;  // of the file\n",
    "// That office is shut.\n// Whatever comes.\n",
    "// Sums over a list.\n// Of two equal numbers the first counts.\nint a;\n",
    "auto text = \"// Of a literal\";\n",
    "char c = '\"';  // Returns \"// Of\"\n",
])
def test_other_comments_are_accepted(text):
    assert problems("made/up.cpp", text) == []
