"""Data in the layouts of the authors' repository, TruthfulQA and MMLU, all made here, and settings for a tiny model."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiny_models import random_text

SOURCE = Path(__file__).parents[2]
DRIVER = SOURCE / "experiments" / "paper" / "run"
REFUSALS = 7


def write_csv(path: Path, columns: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows] if columns else rows)
    return path


def write_behaviour(folder: Path, train: int, test: int, seed: int, unasked: bool = False) -> None:
    """`unasked`: the first row of training and one more held-out row have no question."""
    generator = random.Random(seed)
    pairs = [[f"{random_text(generator, 6)} ({index})?", *(random_text(generator, 4) for _ in range(2))]
             for index in range(train + test)]
    columns = ("question", "matching", "not_matching")
    lone = [["", "Yes, alone.", "No, alone."]] if unasked else []
    write_csv(folder / "train.csv", columns, [*lone, *pairs[len(lone):train]])
    write_csv(folder / "test.csv", columns, [*pairs[train:], *lone])
    items = [(question, *((yes, no, "A") if index % 2 else (no, yes, "B")))
             for index, (question, yes, no) in enumerate(pairs[train:])]
    write_csv(folder / "test_infer.csv", ("question", "A", "B", "matching"), items)


def write_repeated(folder: Path, train: int, test: int) -> None:
    """Each question with the same chosen answer and another refusal in every row, as the jailbreak data have them."""
    generator = random.Random(5)
    for name, count in (("train", train), ("test", test)):
        rows = []
        for index in range(count):
            question, chosen = f"{name} {random_text(generator, 5)} ({index})?", random_text(generator, 5)
            rows += [[question, chosen, f"No, not {refusal}."] for refusal in range(REFUSALS)]
        write_csv(folder / f"{name}.csv", ("question", "matching", "not_matching"), rows)


def write_study(folder: Path) -> Path:
    """All inputs below `folder`; returns it."""
    for seed, name in enumerate(("power-seeking", "wealth-seeking", "hallucination")):
        write_behaviour(folder / "data" / name, 8, 12, seed, unasked=name == "power-seeking")
    write_repeated(folder / "data" / "jailbreak", 2, 6)
    write_csv(folder / "attacked.csv", ("question",), [["Tell me more, please! ! ? )"], ["Help me (please)? ] ("]])
    columns = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source")
    write_csv(folder / "TruthfulQA.csv", columns, [
        ("x", "y", f"Is it old ({index})?", f"Yes {index}", f"Yes {index}; It is {index}",
         f"No {index}; Never {index}", "z") for index in range(20)])
    for subject in ("cats", "tea"):
        for name, count in (("dev", 5), ("test", 4)):
            write_csv(folder / "mmlu" / name / f"{subject}_{name}.csv", None,
                      [(f"{subject} {index}?", "old", "warm", "thin", "red", "ABCD"[index % 4])
                       for index in range(count)])
    write_settings(folder / "settings")
    return folder


def write_settings(folder: Path) -> None:
    """INI files for seconds on a tiny model."""
    folder.mkdir()
    sweep = {"layers": "0,2", "epochs": "2", "lr": "0.05", "lr-unit": "absolute", "max-pairs": "8"}
    pairs = {"answer-pairs": "all"}
    files = {"behaviours": {"sweep": sweep, "extract": {"max-pairs": "8"}, "generate": {**GENERATE},
                            "evaluate": {"multipliers": "-2,-1,0,1,2"}},
             "truthfulness": {"sweep": {**sweep, **pairs, "epochs": "1"}, "extract": {"max-pairs": "8", **pairs},
                              "evaluate": {"multipliers": "-1,0,1"}},
             "jailbreak": {"sweep": {**sweep, "epochs": "1"}, "generate": GENERATE,
                           "evaluate": {"multipliers": "-1,0,1"}},
             "synergy": {"generate": GENERATE, "evaluate": {"multipliers": "-1,0,1", "grid": "-1,0,1"}},
             "mmlu": {"evaluate": {"multipliers": "-1,0,1", "random-control": "off"}},
             "study": {"study": {"answers": "0", "mmlu-questions": "2"}}}
    for name, sections in files.items():
        lines = [line for section, values in sections.items()
                 for line in (f"[{section}]", *(f"{key} = {value}" for key, value in values.items()))]
        (folder / f"{name}.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")


GENERATE = {"multipliers": "-1,0,1", "max-new-tokens": "3"}
