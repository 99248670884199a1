"""The experiments as steps of bipo-dist, and what is read from their results."""

from __future__ import annotations

import argparse
import configparser
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import AnalysisError
from ..evaluation import CAA, VECTOR, Evaluation, load_evaluation
from ..run import Run
from ..sweep import load_sweep
from ..wording import joined
from .layout import (HALLUCINATION, JAILBREAK, PERSONAS, SAMPLE, TRUTHFULQA, Parts, attacked_questions,
                     behaviour_parts, find_behaviours, mmlu_files, truthfulqa_parts)
from .measured import AB, MC1, MC2, Measured, Rows
from .published import ATTACKS, DEFENDED, KEYWORD_ATTACKS, KEYWORD_DEFENDED, MMLU, SCORE, SUMMED
from .steps import Runner, Step

NAMES = ("personas", "synergy", "transfer", "truthfulness", "hallucination", "jailbreak", "mmlu")
# Vectors that the paper adds up.
SUMS = (("power-seeking", "wealth-seeking"), ("corrigible-less-HHH", HALLUCINATION))
OTHER_CHARACTERS = re.compile("[^A-Za-z0-9._-]")  # than those of names
# Files and folders that lie, here or below steps/, beside those of the models.
TAKEN = ("sweep", "sweep.h5", "sweep.json", "sweep.log", "collect.json", "collect.log")
CHOSEN = "CHOSEN"  # in printed commands, the vector that training has yet to give
RECIPES = ("behaviours", "truthfulness", JAILBREAK, "synergy", "mmlu", "study")
STUDY_SETTINGS = {"answers": 0, "truthfulqa-questions": 0, "mmlu-questions": 30}


@dataclass(frozen=True)
class Model:
    """A model under the name that folders and tables use."""

    name: str
    path: str


@dataclass(frozen=True)
class Choice:
    """The vector that the validation half chose, as `--vector` takes it."""

    vector: str
    layer: int
    epoch: int  # from 1
    swing: float  # nats of margin from multiplier -1 to +1 on the validation half
    candidates: int  # layers times epochs


@dataclass
class Result:
    """What an experiment found, for the report."""

    name: str
    rows: list[Measured] = field(default_factory=list)
    choices: list[tuple[str, str, Choice]] = field(default_factory=list)  # model, data
    evaluations: list[tuple[str, Evaluation]] = field(default_factory=list)  # label
    judged: list[tuple[str, Evaluation]] = field(default_factory=list)  # the same, with a judge's scores
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class LeftOut(Exception):
    """An experiment, or a part of one, has no data: says what it needs."""


class Study:
    """All experiments on the same models, data and directory."""

    def __init__(self, options: argparse.Namespace, runner: Runner, home: Path):
        self._options, self._runner, self._home = options, runner, home
        self._out: Path = options.out
        self.models = models_of(options.models, "--models")
        self._sisters = models_of(options.sister, "--sister")
        self.settings_folder = settings_folder(options.settings, home)
        self._study = study_settings(self.settings_folder, options)
        self._behaviours = find_behaviours(options.data, home.parents[1] / "datasets" / "sample")
        self._common = tuple(options.common)
        self._result = Result("")
        self._chosen: dict[str, dict[str, Choice]] = {}  # by data set and model
        self._experiments: dict[str, Callable[[], None]] = {
            "personas": self._personas, "synergy": self._synergy, "transfer": self._transfer,
            "truthfulness": self._truthfulness, "hallucination": lambda: self._one_behaviour(HALLUCINATION),
            "jailbreak": self._jailbreak, "mmlu": self._mmlu}

    def check(self, names: Sequence[str]) -> None:
        """Reads what the experiments read, before any work.  Raises AnalysisError; LeftOut for one that has no data."""
        options, scored = self._options, [name for name in self._behaviours if name != JAILBREAK]
        unknown = [name for name in options.behaviours if name not in scored]
        if unknown:
            raise AnalysisError(f"--behaviours {joined(unknown)}: the data have {joined(scored) or 'none that is one'}")
        if options.adapter and len(self.models) > 1:
            raise AnalysisError("--adapter belongs to one model; name one by --models")
        names_here = {model.name for model in self.models}
        if own := [sister.name for sister in self._sisters if sister.name in names_here]:
            raise AnalysisError(f"--sister {own[0]}: --models has a model of this name; give another, NAME=DIR")
        # What is not there when work begins would be missed after hours.
        moved_to = [("--sister", sister.path) for sister in self._sisters if not self._runner.dry_run]
        for option, path in (("--adapter", options.adapter), *moved_to):
            if path and not Path(path).exists():
                raise AnalysisError(f"{option} {path}: no such file or directory")
        if options.attacked:
            attacked_questions(options.attacked, self._out)
        for name in names:
            self._needs(name)
        for behaviour in self._behaviours.values():
            behaviour_parts(behaviour, self._out, options.seed, 0)
        if options.truthfulqa:
            truthfulqa_parts(options.truthfulqa, self._out, options.seed, 0)
        if options.mmlu:
            mmlu_files(options.mmlu, self._out, 1)

    def run(self, name: str) -> Result:
        """Does the steps of an experiment that are not done, and reads their results.

        There are none while commands are printed.  Raises LeftOut, StepFailed and AnalysisError.
        """
        self._result = Result(name)
        self._needs(name)
        self._experiments[name]()
        return self._result

    # What each experiment is.

    def _personas(self) -> None:
        for name in self._personas_in_use:
            self._one_behaviour(name)

    def _one_behaviour(self, name: str) -> None:
        parts = self._parts(name)
        self._result.notes += _left_out(parts)
        for model in self.models:
            evaluation, folder = self._evaluated(parts, model), self._folder(parts, model)
            requests = {direction: self._judge_export(parts, folder / f"answers{suffix}.jsonl",
                                                      folder / f"requests{suffix}.jsonl")
                        for direction, suffix in ((VECTOR, ""), (CAA, "-caa"))}
            rows = Rows(self._result.name, model.name, name)
            if evaluation is not None:
                rows.effect(evaluation)
                rows.choices(evaluation, "ab", AB)
                for direction, path in requests.items():
                    judged = self._judged(name, path, folder / "eval.h5")
                    rows.judged(judged, SCORE, (-1, 0, 1), self._shown(path), direction)
                    self._show_judged(f"{model.name}, {name}, {direction}", judged)
                self._show(f"{model.name}, {name}", evaluation)
            self._result.rows += rows.rows
        self._collect(parts)

    def _synergy(self) -> None:
        for pair in self._summed:
            both = [self._parts(name) for name in pair]
            for model in self.models:
                choices = [self._trained(parts)[model.name] for parts in both]
                folder = self._out / "synergy" / "+".join(pair) / model.name
                for own, parts in enumerate(both):
                    self._sum(model, choices, own, folder, parts)

    def _sum(self, model: Model, choices: Sequence[Choice], own: int, folder: Path, parts: Parts) -> None:
        """Both vectors on the held-out pairs of one of them, the one with the index `own`."""
        words = [word for choice in choices for word in ("--vector", choice.vector)]
        sources = [self._file(choice) for choice in choices]
        grid, answers = folder / f"{parts.name}.h5", folder / f"answers-{parts.name}.jsonl"
        self._do("evaluate", grid, model, "synergy", [*words, "--test", str(parts.report)], [parts.report, *sources])
        self._do("generate", answers, model, "synergy", [*words, "--prompts", str(parts.prompts)],
                 [parts.prompts, *sources])
        requests = self._judge_export(parts, answers, folder / f"requests-{parts.name}.jsonl")
        if self._runner.dry_run:
            return
        evaluation, rows = load_evaluation(grid), Rows("synergy", model.name, parts.name)
        rows.grid(evaluation, own)
        judged = self._judged(parts.name, requests, grid)
        measure = SUMMED if folder.parent.name in map("+".join, SUMS) else f"{SUMMED} ({folder.parent.name})"
        rows.judged(judged, measure, (-1, 0, 1), self._shown(requests))
        self._result.rows += rows.rows
        self._show(f"{model.name}, both vectors on {parts.name}", evaluation)
        self._show_judged(f"{model.name}, both vectors on {parts.name}", judged)

    def _transfer(self) -> None:
        for name in self._personas_in_use:
            parts = self._parts(name)
            for model in self.models:
                choice, targets = self._trained(parts)[model.name], [(model.name, model, "")]
                targets += [(sister.name, sister, "") for sister in self._sisters]
                if self._options.adapter:
                    label = f"{model.name} + {Path(self._options.adapter).stem}"
                    targets.append((label, model, self._options.adapter))
                for label, target, adapter in targets:
                    own = label == model.name
                    evaluation = self._evaluated(parts, model) if own else \
                        self._moved(parts, model, target, adapter, label, choice)
                    if evaluation is not None:
                        rows = Rows("transfer", label if own else f"{label}, vector of {model.name}", name)
                        rows.effect(evaluation)
                        self._result.rows += rows.rows
                        self._show(f"{label}, {name}", evaluation)

    def _moved(self, parts: Parts, origin: Model, target: Model, adapter: str, label: str,
               choice: Choice) -> Evaluation | None:
        out = self._out / "transfer" / parts.name / f"{origin.name} on {label}".replace(" ", "_") / "eval.h5"
        caa = self._folder(parts, origin) / "caa.h5"
        words = ["--vector", choice.vector, "--caa", str(caa), "--test", str(parts.report)]
        if adapter:
            words += ["--adapter", adapter]
        self._do("evaluate", out, target, "behaviours", words, [parts.report, self._file(choice), caa])
        return None if self._runner.dry_run else load_evaluation(out)

    def _truthfulness(self) -> None:
        parts = self._parts(TRUTHFULQA)
        for model in self.models:
            choice = self._trained(parts)[model.name]
            caa, out = self._caa(parts, model, choice), self._folder(parts, model) / "eval.h5"
            self._do("evaluate", out, model, self._recipe(parts),
                     ["--vector", choice.vector, "--caa", str(caa), "--test", str(parts.report), "--choices-mc",
                      str(parts.mc)], [parts.report, parts.mc or parts.report, self._file(choice), caa])
            if not self._runner.dry_run:
                evaluation, rows = load_evaluation(out), Rows("truthfulness", model.name, TRUTHFULQA)
                rows.effect(evaluation)
                rows.choices(evaluation, "mc", MC1, MC2)
                self._result.rows += rows.rows
                self._show(f"{model.name}, TruthfulQA", evaluation)
        self._collect(parts)

    def _jailbreak(self) -> None:
        parts = self._parts(JAILBREAK)
        self._result.notes += _left_out(parts)
        attacked = None
        if self._options.attacked:
            attacked, files, repeated = attacked_questions(self._options.attacked, self._out / "data" / JAILBREAK)
            self._runner.write(files)
            if repeated:
                self._result.notes.append(f"{self._options.attacked}: {repeated} rows repeat a question; each question "
                                          "is computed and counted once.")
        else:
            self._result.notes.append("Defence under an attack was not measured: the project has no attacking "
                                      "suffixes; --attacked FILE takes questions that carry yours.")
        for model in self.models:
            choice, folder = self._trained(parts)[model.name], self._folder(parts, model)
            vectors = {VECTOR: (choice.vector, self._file(choice), ""), CAA: (caa := self._caa(parts, model, choice),
                                                                              caa, "-caa")}
            for direction, (vector, source, suffix) in vectors.items():
                asked = {(KEYWORD_ATTACKS, ATTACKS): (parts.prompts, "plain")}
                if attacked is not None:
                    asked[KEYWORD_DEFENDED, DEFENDED] = (attacked, "attacked")
                for (listed, judge), (prompts, name) in asked.items():
                    answers = folder / f"answers-{name}{suffix}.jsonl"
                    self._do("generate", answers, model, "jailbreak",
                             ["--vector", str(vector), "--prompts", str(prompts)], [prompts, source])
                    out = folder / f"eval-{name}{suffix}.h5"
                    words, read = ["--vector", str(vector), "--generations", str(answers)], [answers, source]
                    if (name, direction) == ("plain", VECTOR):
                        words += ["--test", str(parts.report), "--caa", str(caa)]
                        read += [parts.report, caa]
                    self._do("evaluate", out, model, "jailbreak", words, read)
                    requests = self._judge_export(parts, answers, folder / f"requests-{name}{suffix}.jsonl")
                    if not self._runner.dry_run:
                        self._read_attacks(model, load_evaluation(out), out, requests, (listed, judge), direction)
        self._collect(parts)

    def _read_attacks(self, model: Model, evaluation: Evaluation, out: Path, requests: Path, measures: tuple[str, str],
                      direction: str) -> None:
        rows = Rows("jailbreak", model.name, JAILBREAK)
        if len(evaluation.curve):
            rows.effect(evaluation)
        rows.attacks(evaluation, measures[0], direction)
        judged = self._judged(JAILBREAK, requests, out)
        rows.judged(judged, measures[1], (-1, 0, 1), self._shown(requests), direction)
        self._result.rows += rows.rows
        self._show_judged(f"{model.name}, {out.stem.removeprefix('eval-')} questions", judged)
        self._show(f"{model.name}, {out.stem.removeprefix('eval-')} questions", evaluation)

    def _mmlu(self) -> None:
        folder = self._out / "data" / "mmlu"
        files = mmlu_files(self._options.mmlu, folder, self._study["mmlu-questions"])
        self._runner.write(files)
        for name in self._personas_in_use:
            parts = self._parts(name)
            for model in self.models:
                choice, out = self._trained(parts)[model.name], self._folder(parts, model) / "mmlu.h5"
                self._do("evaluate", out, model, "mmlu", ["--vector", choice.vector, "--mmlu", str(folder)],
                         [*files, self._file(choice)])
                if not self._runner.dry_run:
                    evaluation, rows = load_evaluation(out), Rows("mmlu", model.name, name)
                    rows.choices(evaluation, "mmlu", MMLU)
                    self._result.rows += rows.rows
                    self._show(f"{model.name}, vector of {name}", evaluation)

    # What experiments share.

    def _needs(self, name: str) -> None:
        """Raises LeftOut where an experiment has no data."""
        if name in (HALLUCINATION, JAILBREAK) and name not in self._behaviours:
            raise LeftOut(f"{name}: --data holds no folder {name}" if self._options.data else
                          f"{name}: the project ships no such data; --data DIR takes the authors' directory")
        if name in ("personas", "transfer", "mmlu") and not self._personas_in_use:
            raise LeftOut(f"{name}: --data holds none of the folders {joined(PERSONAS)}")
        if name == "synergy" and not self._summed:
            raise LeftOut("synergy: takes two behaviours, those of --behaviours, or " + " or ".join(
                " and ".join(pair) for pair in SUMS) + ", which the paper adds up")
        if name == "transfer" and not (self._options.sister or self._options.adapter):
            raise LeftOut("transfer: takes another model by --sister, or a LoRA adapter by --adapter")
        if name == "truthfulness" and self._options.truthfulqa is None:
            raise LeftOut("truthfulness: takes TruthfulQA.csv by --truthfulqa")
        if name == "mmlu" and self._options.mmlu is None:
            raise LeftOut("mmlu: takes the directory of MMLU by --mmlu")

    @cached_property
    def _personas_in_use(self) -> list[str]:
        return self._options.behaviours or [name for name in (*PERSONAS, SAMPLE) if name in self._behaviours]

    @cached_property
    def _summed(self) -> list[tuple[str, str]]:
        """The pairs of behaviours to add up: those of the paper, or the two of --behaviours."""
        chosen = self._options.behaviours
        if chosen:
            return [(chosen[0], chosen[1])] if len(set(chosen)) == len(chosen) == 2 else []
        return [pair for pair in SUMS if all(name in self._behaviours for name in pair)]

    def _parts(self, name: str) -> Parts:
        folder, seed = self._out / "data" / name, self._options.seed
        parts = truthfulqa_parts(self._options.truthfulqa, folder, seed, self._study["truthfulqa-questions"]) \
            if name == TRUTHFULQA else behaviour_parts(self._behaviours[name], folder, seed, self._study["answers"])
        self._runner.write(parts.files)
        return parts

    def _recipe(self, parts: Parts) -> str:
        return {TRUTHFULQA: "truthfulness", JAILBREAK: JAILBREAK}.get(parts.name, "behaviours")

    def _trained(self, parts: Parts) -> dict[str, Choice]:
        """The sweep over layers on a data set, and the vector of each model that the validation half chooses."""
        out = self._out / parts.name / "sweep"
        recipe = self._ini(self._recipe(parts))
        words = ["sweep", "--config", str(recipe), "--models",
                 ",".join(f"{model.name}={model.path}" for model in self.models),
                 "--data", f"{parts.name}={parts.train}:{parts.validation}"]
        if self._options.layers:
            words += ["--layers", self._options.layers]
        words += ["--out", str(out), *self._common]
        self._runner.run(Step(f"{parts.name}/sweep", tuple(words), (out / "plan.json",),
                              (recipe, parts.train, parts.validation), overwrites=False))
        if self._runner.dry_run:
            return {model.name: Choice(str(out / f"{CHOSEN}.h5"), -1, 0, math.nan, 0) for model in self.models}
        if parts.name not in self._chosen:
            sweep = load_sweep(out)
            names = dict(zip(sweep.summary["cell"], sweep.summary["model"], strict=True))
            self._chosen[parts.name] = {
                model.name: choose(out, {cell: run for cell, run in sweep.runs.items() if names[cell] == model.name})
                for model in self.models}
        for model, choice in self._chosen[parts.name].items():
            if (model, parts.name, choice) not in self._result.choices:
                self._result.choices.append((model, parts.name, choice))
        return self._chosen[parts.name]

    def _caa(self, parts: Parts, model: Model, choice: Choice) -> Path:
        """The mean difference of the chosen layer, as long as the chosen vector."""
        out = self._folder(parts, model) / "caa.h5"
        layer = str(choice.layer) if choice.layer >= 0 else f"{CHOSEN}-LAYER"
        self._do("extract", out, model, self._recipe(parts),
                 ["--method", "caa", "--train", str(parts.train), "--layer", layer, "--match-norm", choice.vector],
                 [parts.train, self._file(choice)])
        return out

    def _evaluated(self, parts: Parts, model: Model) -> Evaluation | None:
        """Answers under the vector and under the mean difference, and the effect on the reported half."""
        choice, folder = self._trained(parts)[model.name], self._folder(parts, model)
        caa, source = self._caa(parts, model, choice), self._file(choice)
        for name, vector, file in (("answers", choice.vector, source), ("answers-caa", str(caa), caa)):
            self._do("generate", folder / f"{name}.jsonl", model, "behaviours",
                     ["--vector", vector, "--prompts", str(parts.prompts)], [parts.prompts, file])
        words = ["--vector", choice.vector, "--caa", str(caa), "--test", str(parts.report), "--generations",
                 str(folder / "answers.jsonl")]
        inputs = [parts.report, source, caa, folder / "answers.jsonl"]
        if parts.choices is not None:
            words += ["--choices-ab", str(parts.choices)]
            inputs.append(parts.choices)
        self._do("evaluate", folder / "eval.h5", model, "behaviours", words, inputs)
        return None if self._runner.dry_run else load_evaluation(folder / "eval.h5")

    def _judge_export(self, parts: Parts, answers: Path, requests: Path) -> Path:
        rubric = self._home / "rubrics" / f"{parts.name}.txt"
        if parts.name == SAMPLE:
            rubric = self._home.parents[1] / "datasets" / "sample" / "judge_rubric.txt"
        words = ["evaluate", "--judge-export", str(requests), "--generations", str(answers), "--rubric", str(rubric),
                 "--behaviour", parts.name, "--test", str(parts.report)]
        if parts.name == JAILBREAK:
            # Questions under attack are not those of --test, and the rubric shows no examples.
            words = [*words[:-2], "--judge-scale", "0-1"]
        self._runner.run(Step(self._step_name(requests), tuple(words), (requests,), (answers, rubric),
                              uses_model=False))
        return requests

    def _judged(self, data: str, requests: Path, file: Path) -> Evaluation | None:
        """The evaluation of a data set with the scores of a judge, where its results lie beside the requests.

        They are read again when they have changed: results may come in parts.
        """
        results = requests.with_name(requests.name.replace("requests", "results"))
        if not results.exists():
            return None
        out = results.with_suffix(".h5")
        words = ["evaluate", "--judge-import", str(results), "--out", str(out)]
        if data == JAILBREAK:
            words += ["--judge-scale", "0-1"]
        self._runner.run(Step(self._step_name(out), tuple(words), (out,), (results, file), uses_model=False,
                              overwrites=False, adds_to=file))
        return load_evaluation(out)

    def _do(self, command: str, out: Path, model: Model, recipe: str, words: Sequence[str],
            inputs: Sequence[Path]) -> None:
        """One step that runs the model, with the settings of a recipe."""
        ini = self._ini(recipe)
        whole = (command, "--config", str(ini), "--model", model.path, *words, "--out", str(out), *self._common)
        self._runner.run(Step(self._step_name(out), whole, (out,), (ini, *inputs)))

    def _collect(self, parts: Parts) -> None:
        sweep, out = self._out / parts.name / "sweep", self._out / parts.name / "sweep.h5"
        self._runner.run(Step(f"{parts.name}/collect", ("collect", str(sweep), "--out", str(out)), (out,),
                              (sweep / "plan.json",), uses_model=False))

    def _folder(self, parts: Parts, model: Model) -> Path:
        return self._out / parts.name / model.name

    def _ini(self, recipe: str) -> Path:
        return self.settings_folder / f"{recipe}.ini"

    def _step_name(self, out: Path) -> str:
        return str(out.relative_to(self._out).with_suffix(""))

    def _file(self, choice: Choice) -> Path:
        return Path(choice.vector.rpartition(":")[0] or choice.vector)

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._out))

    def _show(self, label: str, evaluation: Evaluation) -> None:
        self._result.evaluations.append((label, evaluation))

    def _show_judged(self, label: str, evaluation: Evaluation | None) -> None:
        if evaluation is not None:
            self._result.judged.append((label, evaluation))


def choose(sweep: Path, runs: dict[str, Run]) -> Choice:
    """The layer and epoch whose held-out margin at +1 lies furthest above that at -1; of equal ones the earlier.

    Raises AnalysisError where no run was evaluated at both.
    """
    best, candidates = None, 0
    for cell, run in runs.items():
        for epoch, rows in run.evals.groupby("epoch"):
            margins = dict(zip(rows["multiplier"], rows["margin"], strict=True))
            swing = margins.get(1.0, math.nan) - margins.get(-1.0, math.nan)
            if math.isfinite(swing):
                candidates += 1
                key = (swing, -run.layer, -epoch)
                if best is None or key > best[0]:
                    best = (key, cell, run.layer, int(epoch) + 1)
    if best is None:
        raise AnalysisError(f"{sweep}: no run was evaluated at multipliers -1 and +1 on the validation half; the "
                            "settings of [sweep] have to evaluate each epoch at both")
    (swing, *_), cell, layer, epoch = best
    return Choice(f"{sweep / cell}.h5:epoch={epoch}", layer, epoch, float(swing), candidates)


def _left_out(parts: Parts) -> list[str]:
    notes = []
    if parts.repeated:
        notes.append(f"{parts.name}: {parts.repeated} held-out rows repeat a question; each question is computed and "
                     "counted once.")
    if parts.unasked:
        notes.append(f"{parts.name}: {parts.unasked} held-out rows have no question and are left out.")
    return notes


def models_of(listed: str, option: str) -> list[Model]:
    """Reads a list of models, NAME=DIR or DIR, with the rules of `sweep --models`: a name ends at the first '='.

    Raises AnalysisError, which names `option`, for names that repeat or cannot be part of file names.
    """
    found = []
    for word in filter(None, (part.strip() for part in listed.split(","))):
        name, equals, path = word.partition("=")
        if not equals:
            name, path = OTHER_CHARACTERS.sub("-", Path(os.path.abspath(word)).name.removesuffix(".gguf")), word
        if not path:
            raise AnalysisError(f"{option} {word}: names no model; give NAME=DIR")
        if not name or name.startswith(".") or OTHER_CHARACTERS.search(name):
            raise AnalysisError(f"{option} {word}: '{name}' is to be part of file names, and has to be of letters, "
                                "digits, '.', '_' and '-'; give NAME=DIR, also where DIR itself has a '='")
        if name in TAKEN:
            raise AnalysisError(f"{option} {word}: '{name}' is what the driver's own files are called; give another "
                                "name, NAME=DIR")
        found.append(Model(name, path))
    names = [model.name for model in found]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise AnalysisError(f"{option} {listed}: two models are called {repeated}; give names, NAME=DIR")
    return found


def settings_folder(name: str, home: Path) -> Path:
    """The folder of INI files, by the name of one of the project's or by path."""
    for folder in (home / "settings" / name, Path(name)):
        missing = [recipe for recipe in RECIPES if not (folder / f"{recipe}.ini").is_file()]
        if folder.is_dir() and missing:
            raise AnalysisError(f"--settings {name}: {folder} lacks {missing[0]}.ini; a folder of settings has the "
                                f"files of {home / 'settings' / 'small'}")
        if not missing:
            return folder
    listed = joined(sorted(path.name for path in (home / "settings").glob("*") if path.is_dir()))
    raise AnalysisError(f"--settings {name}: neither one of {listed} nor a folder with the files of those")


def study_settings(folder: Path, options: argparse.Namespace) -> dict[str, int]:
    """What bipo-dist does not know: numbers of questions, from study.ini and the command line, which wins."""
    reader = configparser.ConfigParser(interpolation=None)
    path = folder / "study.ini"
    try:
        reader.read_string(path.read_text(encoding="utf-8"))
        given = {name: int(value) for name, value in reader["study"].items()}
    except (OSError, KeyError, ValueError, configparser.Error) as error:
        raise AnalysisError(f"{path}: needs a section [study] of whole numbers: {error}") from error
    unknown = [name for name in given if name not in STUDY_SETTINGS]
    if unknown:
        raise AnalysisError(f"{path}: unknown setting {joined(unknown)}; there are {joined(list(STUDY_SETTINGS))}")
    told = {"answers": options.answers, "truthfulqa-questions": options.truthfulqa_questions,
            "mmlu-questions": options.mmlu_questions}
    found = {**STUDY_SETTINGS, **given, **{name: value for name, value in told.items() if value is not None}}
    if any(value < 0 for value in found.values()):
        raise AnalysisError(f"numbers of questions are 0 (all) or more: {found}")
    return found
