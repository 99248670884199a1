"""Reads the rooms that CMake declares and the includes of their files, and lists what breaks the rules."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

MOST_FILES = 30
TOPS = ("collectives", "datasets", "trainer", "experiments", "launcher")
SUFFIXES = (".cpp", ".hpp")
# Not rooms: the executable's file and what CMake itself compiles.
OUTSIDE = ("launcher/main.cpp", "launcher/start.cpp", "launcher/cmake")


@dataclass
class Room:
    path: str
    sources: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)


def declared_rooms(root: Path) -> dict[str, Room]:
    rooms = {}
    for top in TOPS:
        text = re.sub(r"#.*", "", (root / top / "CMakeLists.txt").read_text(encoding="utf-8"))
        for call in re.findall(r"\bbipo_room\(([^)]*)\)", text):
            path, *words = call.split()
            room = rooms[path] = Room(path)
            target: set[str] = set()
            for word in words:
                if word in ("TORCH", "SOURCES", "USES", "LIBRARIES"):
                    target = {"SOURCES": room.sources, "USES": room.uses}.get(word, set())
                else:
                    target.add(word)
    return rooms


def source_files(root: Path) -> list[str]:
    files = [path.relative_to(root).as_posix() for top in TOPS for path in (root / top).rglob("*")
             if path.suffix in SUFFIXES]
    return sorted(file for file in files if not file.startswith(OUTSIDE))


def room_of(file: str) -> str:
    return file.rpartition("/")[0]


def included_rooms(root: Path, files: list[str]) -> dict[str, dict[str, str]]:
    """For each room, the other rooms whose headers it includes, each with one place that does so."""
    known = set(files)
    included: dict[str, dict[str, str]] = {}
    for file in files:
        of_room = included.setdefault(room_of(file), {})
        for header in re.findall(r'^#include "([^"]+)"', (root / file).read_text(encoding="utf-8"), re.MULTILINE):
            if header in known and room_of(header) != room_of(file):
                of_room.setdefault(room_of(header), f"{file} includes {header}")
    return included


def circle_of(rooms: dict[str, Room]) -> list[str]:
    """Rooms that use each other in a circle; empty where there are none."""
    done: set[str] = set()

    def visit(path: str, trail: list[str]) -> list[str]:
        if path in trail:
            return trail[trail.index(path):] + [path]
        if path in done or path not in rooms:
            return []
        for used in sorted(rooms[path].uses):
            if circle := visit(used, [*trail, path]):
                return circle
        done.add(path)
        return []

    for path in sorted(rooms):
        if circle := visit(path, []):
            return circle
    return []


def problems(root: Path) -> list[str]:
    """One sentence for each broken rule of docs/architecture.md, section Rooms."""
    rooms = declared_rooms(root)
    files = source_files(root)
    found = []
    for path in sorted({room_of(file) for file in files} - rooms.keys()):
        found.append(f"{path}: holds sources but is no room; declare it by bipo_room()")
    for path, of_room in sorted(included_rooms(root, files).items()):
        declared = rooms[path].uses if path in rooms else set()
        found += [f"{path}: does not declare {other} in USES, but {place}"
                  for other, place in sorted(of_room.items()) if other not in declared]
        found += [f"{path}: declares {other} in USES, but includes nothing of it"
                  for other in sorted(declared - of_room.keys())]
    if circle := circle_of(rooms):
        found.append(f"rooms use each other in a circle: {' -> '.join(circle)}")
    for path in sorted(rooms):
        count = sum(room_of(file) == path for file in files)
        if count > MOST_FILES:
            found.append(f"{path}: {count} files, more than {MOST_FILES}")
        if count == 0:
            found.append(f"{path}: is declared but holds no sources")
    # The floors of the house: a folder further down in TOPS may use those before it.
    for path, room in sorted(rooms.items()):
        found += [f"{path}: uses {used}, which is on a higher floor" for used in sorted(room.uses)
                  if TOPS.index(used.split("/")[0]) > TOPS.index(path.split("/")[0])]
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_/]+)` \|", page, re.MULTILINE))
    found += [f"{path}: is not in the table of docs/architecture.md" for path in sorted(rooms.keys() - documented)]
    found += [f"{path}: is in the table of docs/architecture.md, but is no room"
              for path in sorted(documented - rooms.keys())]
    return found
