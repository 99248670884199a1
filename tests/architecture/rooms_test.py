"""The include graph follows the rooms that CMake declares and docs/architecture.md lists."""

from __future__ import annotations

from pathlib import Path

import pytest

import rooms

SOURCE = Path(__file__).parents[2]


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


@pytest.fixture
def house(tmp_path) -> Path:
    """A small tree without faults: trainer/loop uses datasets/text."""
    for top in rooms.TOPS:
        write(tmp_path, f"{top}/CMakeLists.txt", "# nothing\n")
    write(tmp_path, "datasets/CMakeLists.txt", "bipo_room(datasets/text\n  SOURCES text.cpp)\n")
    write(tmp_path, "trainer/CMakeLists.txt", "bipo_room(trainer/loop TORCH\n  SOURCES loop.cpp\n"
                                              "  USES datasets/text\n  LIBRARIES some::library)\n")
    write(tmp_path, "datasets/text/text.hpp", "#pragma once\n")
    write(tmp_path, "datasets/text/text.cpp", '#include "datasets/text/text.hpp"\n')
    write(tmp_path, "trainer/loop/loop.cpp", '#include "datasets/text/text.hpp"\n')
    write(tmp_path, "docs/architecture.md", "| room | holds |\n| `datasets/text` | texts |\n| `trainer/loop` | it |\n")
    return tmp_path


def test_the_project_keeps_its_rules():
    assert rooms.problems(SOURCE) == []
    assert len(rooms.declared_rooms(SOURCE)) > 30 and len(rooms.source_files(SOURCE)) > 300


def test_a_house_in_order_has_no_problems(house):
    assert rooms.problems(house) == []


def test_an_undeclared_include_is_found(house):
    write(house, "trainer/CMakeLists.txt", "bipo_room(trainer/loop TORCH SOURCES loop.cpp)\n")
    assert rooms.problems(house) == ["trainer/loop: does not declare datasets/text in USES, but "
                                     "trainer/loop/loop.cpp includes datasets/text/text.hpp"]


def test_a_wrong_way_edge_is_found(house):
    write(house, "trainer/CMakeLists.txt", "bipo_room(trainer/loop)\n")
    write(house, "trainer/loop/loop.cpp", "")
    write(house, "trainer/loop/loop.hpp", "#pragma once\n")
    write(house, "datasets/CMakeLists.txt", "bipo_room(datasets/text SOURCES text.cpp USES trainer/loop)\n")
    write(house, "datasets/text/text.cpp", '#include "trainer/loop/loop.hpp"\n')
    assert rooms.problems(house) == ["datasets/text: uses trainer/loop, which is on a higher floor"]


def test_a_circle_is_found(house):
    write(house, "datasets/CMakeLists.txt", "bipo_room(datasets/text SOURCES text.cpp USES datasets/rows)\n"
                                            "bipo_room(datasets/rows USES datasets/text)\n")
    write(house, "datasets/rows/rows.hpp", '#include "datasets/text/text.hpp"\n')
    write(house, "datasets/text/text.cpp", '#include "datasets/rows/rows.hpp"\n')
    write(house, "docs/architecture.md", "| `datasets/text` | a |\n| `datasets/rows` | b |\n| `trainer/loop` | c |\n")
    assert rooms.problems(house) == ["rooms use each other in a circle: datasets/rows -> datasets/text -> datasets/rows"]


def test_an_edge_that_is_not_needed_is_found(house):
    write(house, "trainer/loop/loop.cpp", "")
    assert rooms.problems(house) == ["trainer/loop: declares datasets/text in USES, but includes nothing of it"]


def test_a_full_folder_is_found(house):
    for number in range(rooms.MOST_FILES):
        write(house, f"datasets/text/part{number}.hpp", "")
    assert rooms.problems(house) == ["datasets/text: 32 files, more than 30"]


def test_a_folder_that_is_no_room_is_found(house):
    write(house, "trainer/attic/old.cpp", "")
    assert rooms.problems(house) == ["trainer/attic: holds sources but is no room; declare it by bipo_room()"]


def test_the_table_of_rooms_is_complete_and_true(house):
    write(house, "docs/architecture.md", "| `datasets/text` | texts |\n| `trainer/cellar` | gone |\n")
    assert rooms.problems(house) == ["trainer/loop: is not in the table of docs/architecture.md",
                                     "trainer/cellar: is in the table of docs/architecture.md, but is no room"]
