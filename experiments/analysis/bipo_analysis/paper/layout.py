"""The data of the experiments: the authors' data directory, TruthfulQA.csv and MMLU, checked and cut into parts.

Which question belongs to which part follows from its text and the seed alone, so that neither the order of a file nor
the release of Python matters.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import AnalysisError
from ..wording import joined

# Folders of github.com/CaoYuanpu/BiPO's data/, and those that the paper has beside them.
PERSONAS = ("power-seeking", "wealth-seeking", "corrigible-less-HHH", "survival-instinct")
HALLUCINATION, JAILBREAK, TRUTHFULQA, SAMPLE = "hallucination", "jailbreak", "truthfulqa", "warmth"
KNOWN = (*PERSONAS, HALLUCINATION, JAILBREAK)
PAIR_COLUMNS, CHOICE_COLUMNS = ("question", "matching", "not_matching"), ("question", "A", "B", "matching")
QUESTION = ("question",)  # two rows of the authors' power-seeking/train.csv have none
OTHER_PROMPTS = ("prompt", "prompt_arr", "messages", "instruction", "system")  # what else `generate` asks in a row
TRUTHFULQA_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
# The shares of TruthfulQA that train and choose; the paper trains on 327 of the 817 questions and reports on 409.
TRAIN_SHARE, CHOOSING_SHARE = 0.4, 0.1
Row = dict[str, str]


@dataclass(frozen=True)
class Behaviour:
    """One data set as it lies there; `choices` is its test_infer.csv (A/B questions), if it has one."""

    name: str
    train: Path
    test: Path
    choices: Path | None = None


@dataclass(frozen=True)
class Parts:
    """What training and evaluation read.  `files` are those to be written, with their content."""

    name: str
    train: Path
    validation: Path  # the pairs that choose layer and epoch
    report: Path  # the pairs that had no part in the choice
    prompts: Path  # the questions of `report`
    choices: Path | None
    repeated: int  # held-out rows that are left out, because an earlier one has their question
    unasked: int  # held-out rows that are left out, because they have no question
    files: Mapping[Path, str]
    mc: Path | None = None  # TruthfulQA's MC1 and MC2 items


def find_behaviours(data: Path | None, sample: Path) -> dict[str, Behaviour]:
    """The data sets of the authors' directory, or the project's sample where none is given.

    Raises AnalysisError, which says what a file lacks, for another layout.
    """
    if data is None:
        return {SAMPLE: _checked(Behaviour(SAMPLE, sample / "train.csv", sample / "test.csv"))}
    if not data.is_dir():
        raise AnalysisError(f"--data {data}: no such directory; name the directory data/ of the authors' repository")
    folders = {name: data / name for name in KNOWN if (data / name).is_dir()}
    if not folders:
        raise AnalysisError(f"--data {data}: holds none of the folders {joined(KNOWN)}; each has train.csv and "
                            f"test.csv with the columns {', '.join(PAIR_COLUMNS)}, as in data/ of the authors' "
                            "repository")
    return {name: _checked(Behaviour(name, folder / "train.csv", folder / "test.csv",
                                     folder / "test_infer.csv" if (folder / "test_infer.csv").exists() else None))
            for name, folder in folders.items()}


def behaviour_parts(behaviour: Behaviour, folder: Path, seed: int, most_answers: int) -> Parts:
    """Halves of the held-out pairs by question, below `folder`; at most `most_answers` questions are answered (0: all).

    Of rows that repeat a question the first counts: answers to one question are not independent.  Raises AnalysisError
    where there are too few questions to halve.
    """
    read = read_rows(behaviour.test, PAIR_COLUMNS, may_be_empty=QUESTION)
    rows = [row for row in read if row["question"]]
    different = list({row["question"]: row for row in reversed(rows)}.values())[::-1]
    chosen, reported = halves([row["question"] for row in rows], seed, behaviour.test)
    report = [row for row in different if row["question"] in reported]
    choosing = [row for row in different if row["question"] in chosen]
    files = {folder / "validation.csv": table_text(PAIR_COLUMNS, choosing),
             folder / "report.csv": table_text(PAIR_COLUMNS, report)}
    questions = [row["question"] for row in report]
    asked = questions[:most_answers] if most_answers else questions
    files[folder / "prompts.csv"] = table_text(("question",), [{"question": text} for text in asked])
    choices = None
    if behaviour.choices is not None:
        read_choices = read_rows(behaviour.choices, CHOICE_COLUMNS, may_be_empty=QUESTION)
        items = list({row["question"]: row for row in reversed(read_choices)
                      if row["question"] in reported}.values())[::-1]
        if items:
            choices = folder / "choices.csv"
            files[choices] = table_text(CHOICE_COLUMNS, items)
    return Parts(behaviour.name, behaviour.train, folder / "validation.csv", folder / "report.csv",
                 folder / "prompts.csv", choices, len(rows) - len(different), len(read) - len(rows), files)


def truthfulqa_parts(path: Path, folder: Path, seed: int, most_questions: int) -> Parts:
    """TruthfulQA.csv cut by question into training, choosing and reporting; `most_questions` (0: all) report."""
    rows = read_rows(path, TRUTHFULQA_COLUMNS)
    by_question = {row["Question"]: row for row in rows}
    questions = in_drawn_order(by_question, seed)
    trained, chosen = round(TRAIN_SHARE * len(questions)), round((TRAIN_SHARE + CHOOSING_SHARE) * len(questions))
    if trained < 1 or chosen == trained or chosen == len(questions):
        raise AnalysisError(f"{path}: {len(questions)} questions are too few to train on, choose and report; the "
                            "published file has 817")
    reported = questions[chosen:][:most_questions or None]
    columns = tuple(rows[0])
    files = {folder / f"{name}.csv": table_text(columns, [by_question[text] for text in part])
             for name, part in (("train", questions[:trained]), ("validation", questions[trained:chosen]),
                                ("report", reported))}
    files[folder / "prompts.csv"] = table_text(("question",), [{"question": text} for text in reported])
    files[folder / "mc.jsonl"] = "".join(_mc_line(by_question[text], path) for text in reported)
    return Parts(TRUTHFULQA, folder / "train.csv", folder / "validation.csv", folder / "report.csv",
                 folder / "prompts.csv", None, 0, 0, files, folder / "mc.jsonl")


def attacked_questions(path: Path, folder: Path) -> tuple[Path, dict[Path, str], int]:
    """The file of questions under attack that is to be answered, what is to be written of it below `folder`, and how
    many of its rows repeat a question.

    It is `path` itself where none does, and where it is of another form that `generate --prompts` takes than a CSV file
    of questions.  Raises AnalysisError for what cannot be read.
    """
    if not path.is_file():
        raise AnalysisError(f"--attacked {path}: no such file")
    if path.suffix.lower() != ".csv":
        return path, {}, 0
    rows = read_rows(path, ())
    if not rows[0].keys().isdisjoint(OTHER_PROMPTS) or "question" not in rows[0]:
        return path, {}, 0
    questions = [row["question"] for row in rows if row["question"]]
    different = list(dict.fromkeys(questions))
    if len(different) == len(questions):
        return path, {}, 0
    asked = folder / "attacked.csv"
    return asked, {asked: table_text(QUESTION, [{"question": text} for text in different])}, \
        len(questions) - len(different)


def mmlu_files(directory: Path, folder: Path, most: int) -> dict[Path, str]:
    """The first `most` (0: all) questions of each subject below `folder`, and the subjects' worked examples."""
    tests = sorted(directory.glob("*_test.csv")) or sorted((directory / "test").glob("*_test.csv"))
    if not tests:
        raise AnalysisError(f"--mmlu {directory}: holds no SUBJECT_test.csv, neither itself nor in a folder test; name "
                            "the unpacked data of github.com/hendrycks/test")
    files = {}
    for test in tests:
        subject = test.name.removesuffix("_test.csv")
        places = (test.parent / f"{subject}_dev.csv", test.parent.parent / "dev" / f"{subject}_dev.csv")
        dev = next((place for place in places if place.is_file()), None)
        if dev is None:
            raise AnalysisError(f"{places[0]}: no such file (nor {places[1]}): the five worked examples of {subject}")
        files[folder / "test" / test.name] = _first_rows(test, most)
        files[folder / "dev" / dev.name] = _first_rows(dev, 0)
    return files


def halves(questions: Iterable[str], seed: int, path: Path) -> tuple[set[str], set[str]]:
    """The questions that choose, and the others; equal questions are one."""
    drawn = in_drawn_order(questions, seed)
    if len(drawn) < 4:
        raise AnalysisError(f"{path}: {len(drawn)} different questions; to choose on one half and report on the other "
                            "takes 4 at least")
    return set(drawn[:len(drawn) // 2]), set(drawn[len(drawn) // 2:])


def in_drawn_order(questions: Iterable[str], seed: int) -> list[str]:
    """Different questions in the order of a hash of the seed and their text."""
    return sorted(set(questions), key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())


def read_rows(path: Path, columns: Sequence[str], may_be_empty: Sequence[str] = ()) -> list[Row]:
    """The rows of a CSV file.

    Raises AnalysisError for one that lacks rows or one of the columns, and for a row that has nothing in one of the
    columns that are not among `may_be_empty`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [{name: value for name, value in row.items() if name is not None} for row in reader]
            names = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path}: cannot be read as CSV: {error}") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise AnalysisError(f"{path}: lacks the column {joined(missing)}; it has {', '.join(names) or 'none'}")
    if not rows:
        raise AnalysisError(f"{path}: holds no rows")
    for count, row in enumerate(rows, 1):
        for name in columns:
            if row[name] is None or not row[name] and name not in may_be_empty:
                raise AnalysisError(f"{path}: row {count} after the header has no {name}")
    return rows


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Rows as CSV."""
    return _csv_text([columns, *([row[name] for name in columns] for row in rows)])


def _csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows that end in a line feed; fields with a carriage return are quoted, too, lest one end there."""
    lines = []
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(row)
        lines.append(buffer.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def write_files(files: Mapping[Path, str]) -> None:
    """Writes what is not there already."""
    for path, text in files.items():
        content = text.encode()
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _checked(behaviour: Behaviour) -> Behaviour:
    for path in (behaviour.train, behaviour.test):
        read_rows(path, PAIR_COLUMNS, may_be_empty=QUESTION)
    if behaviour.choices is not None:
        read_rows(behaviour.choices, CHOICE_COLUMNS, may_be_empty=QUESTION)
    return behaviour


def _mc_line(row: Row, path: Path) -> str:
    """MC1: the best answer among the wrong ones; MC2: all right ones among all wrong ones, as TruthfulQA has them."""
    right, wrong = (_answers(row[name]) for name in ("Correct Answers", "Incorrect Answers"))
    best = row["Best Answer"].strip()
    wrong = [text for text in wrong if text != best and text not in right]
    if not right or not wrong:
        raise AnalysisError(f"{path}: the question {row['Question']!r} needs a correct and an incorrect answer")
    both = {"mc1_targets": ([best], wrong), "mc2_targets": (right, wrong)}
    targets = {name: {"choices": [*yes, *no], "labels": [1] * len(yes) + [0] * len(no)}
               for name, (yes, no) in both.items()}
    return json.dumps({"question": row["Question"], **targets}, ensure_ascii=False) + "\n"


def _answers(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(";") if part.strip()))


def _first_rows(path: Path, most: int) -> str:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path}: cannot be read as CSV: {error}") from error
    if not rows:
        raise AnalysisError(f"{path}: holds no rows")
    return _csv_text(rows[:most or None])
