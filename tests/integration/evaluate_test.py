"""`evaluate` on a tiny model: its tables against transformers with forward hooks, on any number of ranks, and what it
refuses."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import AutoTokenizer

import evaluations
import lora_adapters
import pair_tokens
import plain_bipo
import program
import run_files
from tiny_models import TinyModel, write_model

# fp32 sums in another order, over answers of up to some 150 nats.
LOG_PROB_TOLERANCE = 1e-4
MULTIPLIERS = [-1.0, 0.0, 0.5, 2.0]
QUESTIONS = ["Will it rain?", "Can you help me or not?", "Tell me more about the old hat under that tree"]


def trained(folder: Path, name: str, **settings: object) -> Path:
    """A run file with a vector that is large enough to be seen."""
    out = folder / f"{name}.h5"
    program.run_successfully(["train", *program.options({
        "layer": 1, "out": out, "epochs": 1,
        "lr_unit": "absolute", "lr": 0.05, "warmup_steps": 2, "threads": 1, **settings})])
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model, tiny_pairs, tiny_test_pairs) -> dict[str, Path]:
    """Vectors of layer 1 (two of them) and of layer 2."""
    folder = tmp_path_factory.mktemp("runs")
    data = {"model": tiny_model, "train": tiny_pairs, "test": tiny_test_pairs,
            "multipliers": ",".join(map(str, MULTIPLIERS))}
    return {"own": trained(folder, "own", **data), "other": trained(folder, "other", seed=5, sign="minus", **data),
            "later": trained(folder, "later", layer=2, **data)}


class Evaluate:
    """Arguments of `evaluate` with defaults for the tiny model."""

    def __init__(self, folder: Path, **settings: object):
        self.folder, self.settings = folder, settings

    def arguments(self, name: str = "eval.h5", vectors: list[object] = (), **changes: object) -> list[object]:
        settings = {**self.settings, "out": self.folder / name, **changes}
        named = [word for vector in vectors for word in ("--vector", vector)]
        return ["evaluate", *named, *program.options(settings)]

    def __call__(self, name: str = "eval.h5", vectors: list[object] = (), ranks: int | None = None,
                 **changes: object) -> evaluations.EvaluationFile:
        program.run_successfully(self.arguments(name, vectors, **changes), ranks)
        return evaluations.read(self.folder / name)


@pytest.fixture
def evaluate(tmp_path, tiny_model, tiny_test_pairs) -> Evaluate:
    return Evaluate(tmp_path, model=tiny_model, test=tiny_test_pairs, threads=1,
                    multipliers=",".join(map(str, MULTIPLIERS)))


@pytest.fixture(scope="module")
def model(tiny_model):
    return plain_bipo.load_model(tiny_model, torch.float64)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def pairs(tokenizer, tiny_test_pairs):
    return pair_tokens.tokenize(tokenizer, pair_tokens.read_csv(tiny_test_pairs))


def vector_of(run: Path) -> torch.Tensor:
    return torch.from_numpy(run_files.read(run).final_vector).double()


@contextlib.contextmanager
def shifted(model, shifts: dict[int, torch.Tensor], first: int = 0):
    """Inside the `with`, block L outputs h + shifts[L] from position `first` on."""
    def hook(shift):
        def add(_module, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            hidden[:, first:] += shift
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
        return add
    handles = [model.model.layers[layer].register_forward_hook(hook(shift)) for layer, shift in shifts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def all_log_probs(model, ids: list[int], shifts: dict[int, torch.Tensor], first: int = 0) -> torch.Tensor:
    """[T, V]"""
    with shifted(model, shifts, first), torch.no_grad():
        return log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double(), dim=-1)


def answer_log_prob(model, prompt, answer, shifts, first: int = 0) -> float:
    logps = all_log_probs(model, [*prompt, *answer], shifts, first)
    return float(sum(logps[len(prompt) + i - 1, token] for i, token in enumerate(answer)))


def assert_samples(evaluation, direction, model, pairs, shifts_at, first=lambda pair: 0):
    """The rows of /samples against one sequence after the other; shifts_at(multiplier) says what is added."""
    for multiplier in MULTIPLIERS:
        rows = evaluation.rows("samples", direction=direction, multiplier=multiplier)
        assert list(rows["pair"]) == list(range(len(pairs)))
        for name in ("chosen", "rejected"):
            expected = [answer_log_prob(model, pair.prompt, getattr(pair, name), shifts_at(multiplier), first(pair))
                        for pair in pairs]
            numpy.testing.assert_allclose(rows[f"{name}_logp"], expected, rtol=0, atol=LOG_PROB_TOLERANCE)
            assert list(rows[f"{name}_tokens"]) == [len(getattr(pair, name)) for pair in pairs]


def test_tables_are_those_of_transformers_and_numpy(evaluate, runs, model, pairs):
    evaluation = evaluate(vectors=[runs["own"]], caa=runs["other"])
    own, other = vector_of(runs["own"]), vector_of(runs["other"])
    scaled = other * own.norm() / other.norm()
    assert_samples(evaluation, "vector", model, pairs, lambda m: {1: m * own})
    assert_samples(evaluation, "caa", model, pairs, lambda m: {1: m * scaled})

    reference = evaluations.propensities(evaluation, "vector")[0.0]
    for direction in ("vector", "caa", "random"):
        curves = evaluations.propensities(evaluation, direction)
        # Exactly: 0 is computed like every other multiplier.
        assert (curves[0.0] == reference).all()
        slopes = numpy.polyfit(MULTIPLIERS, curves[MULTIPLIERS].T.to_numpy(), 1)[0]
        row = evaluation.row("steerability", direction=direction)
        numpy.testing.assert_allclose(row["norm"], float(own.norm()), rtol=1e-6)
        assert row["pairs"] == len(pairs)
        numpy.testing.assert_allclose(row["steerability"], slopes.mean(), rtol=1e-9)
        numpy.testing.assert_allclose(row["steerability_sd"], slopes.std(ddof=1), rtol=1e-9)
        assert row["anti_steerable"] == (slopes < 0).mean()
        spearman = [evaluations.rank_correlation(MULTIPLIERS, curve) for curve in curves[MULTIPLIERS].to_numpy()]
        numpy.testing.assert_allclose(row["spearman"], numpy.mean(spearman), rtol=1e-9)
        for multiplier in MULTIPLIERS:
            rows = evaluation.rows("samples", direction=direction, multiplier=multiplier)
            numpy.testing.assert_allclose(rows["slope"], slopes, rtol=1e-9, atol=1e-12)
            point = evaluation.row("curve", direction=direction, multiplier=multiplier)
            values = curves[multiplier]
            assert point["accuracy"] == pytest.approx((values > 0).mean(), abs=1e-12)
            assert point["propensity"] == pytest.approx(values.mean(), rel=1e-9)
            assert point["margin"] == pytest.approx(0.1 * (values - reference).mean(), rel=1e-9, abs=1e-12)
            per_token = rows["chosen_logp"] / rows["chosen_tokens"] - rows["rejected_logp"] / rows["rejected_tokens"]
            assert point["propensity_per_token"] == pytest.approx(per_token.mean(), rel=1e-9)
            assert point["chosen_logp"] == pytest.approx(rows["chosen_logp"].mean(), rel=1e-9)
            for name in ("accuracy", "margin", "propensity", "propensity_per_token"):
                assert point[f"{name}_low"] <= point[name] + 1e-12 and point[name] <= point[f"{name}_high"] + 1e-12
    for table, columns in evaluation.units.items():
        assert list(columns) == list(evaluation.tables[table].columns)
    assert evaluation.attributes["kind"] == "evaluation" and evaluation.attributes["schema_version"] == 2
    config = evaluation.config
    assert config["vectors"][0]["layer"] == 1 and config["transfer"] is False
    assert config["vectors"][0]["file"] == str(runs["own"]) and config["caa"]["file"] == str(runs["other"])


def test_training_and_evaluate_agree(evaluate, runs):
    evaluation = evaluate(vectors=[runs["own"]])
    training = run_files.read(runs["own"])
    for multiplier in MULTIPLIERS:
        then = training.evaluation(multiplier)
        now = evaluation.row("curve", direction="vector", multiplier=multiplier)
        assert now["accuracy"] == pytest.approx(then["accuracy"], abs=1e-12)
        for name in ("chosen_logp", "rejected_logp"):
            assert now[name] == pytest.approx(then[name], abs=LOG_PROB_TOLERANCE)
        assert now["margin"] == pytest.approx(then["margin"], abs=0.1 * 4 * LOG_PROB_TOLERANCE)
        # Pair by pair, too.
        pairs = evaluation.rows("samples", direction="vector", multiplier=multiplier)
        samples = training.eval_samples[training.eval_samples["multiplier"] == multiplier]
        assert list(samples["pair"]) == list(pairs["pair"]) and set(samples["step"]) == {then["step"]}
        for name in ("chosen_logp", "rejected_logp"):
            numpy.testing.assert_allclose(samples[name], pairs[name], rtol=0, atol=LOG_PROB_TOLERANCE)


def test_random_control_follows_the_seed_alone(evaluate, runs):
    first = evaluate("first.h5", [runs["own"]])
    again = evaluate("again.h5", [runs["own"]])
    evaluations.assert_same_tables(again, first)
    reseeded = evaluate("reseeded.h5", [runs["own"]], seed=12)
    without = evaluate("without.h5", [runs["own"]], random_control="off")
    for other in (reseeded, without):
        for column in ("chosen_logp", "rejected_logp", "slope"):
            assert list(other.rows("samples", direction="vector")[column]) == list(
                first.rows("samples", direction="vector")[column])
    assert list(reseeded.rows("samples", direction="random")["slope"]) != list(
        first.rows("samples", direction="random")["slope"])
    assert set(without.curve["direction"]) == {"vector"}


def test_several_random_directions_are_a_null_distribution(evaluate, runs, neutral_prompts):
    single = evaluate("single.h5", [runs["own"]], neutral_prompts=neutral_prompts)
    finished = program.run_successfully(evaluate.arguments("eval.h5", [runs["own"]], random=12,
                                                           neutral_prompts=neutral_prompts))
    evaluation = evaluations.read(evaluate.folder / "eval.h5")
    names = ["random", *(f"random-{draw}" for draw in range(2, 13))]
    assert list(dict.fromkeys(evaluation.curve["direction"])) == ["vector", *names]
    # What a single draw gives stays as it is, bit for bit, and only held-out pairs see the others.
    for table in ("curve", "steerability", "samples", "costs"):
        own = evaluation.tables[table][evaluation.tables[table]["direction"].isin(["vector", "random"])]
        assert own.reset_index(drop=True).equals(single.tables[table]), table
    assert set(evaluation.costs["direction"]) == {"vector", "random"}
    numpy.testing.assert_allclose(evaluation.steerability["norm"], evaluation.steerability["norm"].iloc[0], rtol=1e-6)
    moves = {name: numpy.diff(evaluations.propensities(evaluation, name)[[MULTIPLIERS[0], MULTIPLIERS[-1]]].mean())[0]
             for name in ["vector", *names]}
    assert len({round(move, 9) for move in moves.values()}) == 13
    as_far = sum(abs(moves[name]) >= abs(moves["vector"]) for name in names)
    text = " ".join(finished.stdout.split())
    assert (f"12 random directions move propensity by {min(moves[name] for name in names):+.3f} to "
            f"{max(moves[name] for name in names):+.3f} nats") in text, text
    assert f"{as_far} of them as far as the vector: p = {(as_far + 1) / 13:.3g}, by rank" in text
    assert "random-2" not in finished.stdout
    reseeded = evaluate("reseeded.h5", [runs["own"]], random=3, seed=12)
    assert not set(reseeded.rows("steerability", direction="random-2")["steerability"]) & set(
        evaluation.steerability["steerability"])


def test_a_multiplier_is_chosen_on_some_pairs_and_reported_on_the_others(evaluate, runs, pairs):
    finished = program.run_successfully(evaluate.arguments("eval.h5", [runs["own"]], caa=runs["other"], random=3,
                                                           choose_on="half"))
    assert f"warning: --caa {runs['other']}: no mean difference" in finished.stderr and "trained vector" in finished.stderr
    evaluation = evaluations.read(evaluate.folder / "eval.h5")
    assert evaluation.config["choose_on"] == 0.5
    chooses = evaluation.choosing_pairs["chooses"].to_numpy() == 1
    assert list(evaluation.choosing_pairs["pair"]) == list(range(len(pairs)))
    assert chooses.sum() == math.floor(len(pairs) / 2 + 0.5)
    assert [(row.direction, row.aim) for row in evaluation.chosen.itertuples()] == [
        (direction, aim) for direction in ("vector", "caa", "random") for aim in (1, -1)]
    for row in evaluation.chosen.itertuples():
        curves = evaluations.propensities(evaluation, row.direction)
        changes = curves.sub(curves[0.0], axis=0)
        allowed = [m for m in MULTIPLIERS if m * row.aim > 0]
        best = max(allowed, key=lambda m: row.aim * changes[m][chooses].mean())
        assert row.multiplier == best
        assert row.chosen_on == pytest.approx(changes[best][chooses].mean(), rel=1e-9)
        assert (row.choosing_pairs, row.pairs) == (chooses.sum(), (~chooses).sum())
        assert row.propensity == pytest.approx(changes[best][~chooses].mean(), rel=1e-9)
        flips = (curves[best] > 0).astype(int) - (curves[0.0] > 0).astype(int)
        assert row.accuracy == pytest.approx(flips[~chooses].mean(), abs=1e-12)
        assert row.propensity_low <= row.propensity <= row.propensity_high
        assert f"{row.propensity:+.3f} [{row.propensity_low:+.3f}, {row.propensity_high:+.3f}]" in finished.stdout
    assert f"chosen on {chooses.sum()} pairs" in finished.stdout
    assert f"on the {(~chooses).sum()} others" in finished.stdout
    plain = evaluate("plain.h5", [runs["own"]])
    assert len(plain.chosen) == 0 and len(plain.choosing_pairs) == 0 and "choose_on" not in plain.config


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_vectors_of_several_layers_add_up(evaluate, runs, model, pairs, positions):
    evaluation = evaluate(vectors=[runs["own"], f"{runs['later']}@0.5", f"{runs['other']}@-0.25"], positions=positions)
    own, other, later = (vector_of(runs[name]) for name in ("own", "other", "later"))
    assert_samples(evaluation, "vector", model, pairs, lambda m: {1: m * (own - 0.25 * other), 2: m * 0.5 * later},
                   first=(lambda pair: 0) if positions == "all" else (lambda pair: len(pair.prompt)))
    norm = math.hypot(float((own - 0.25 * other).norm()), float(0.5 * later.norm()))
    assert set(evaluation.steerability["direction"]) == {"vector", "random"}
    numpy.testing.assert_allclose(evaluation.steerability["norm"], norm, rtol=1e-6)


def test_grid_of_two_vectors(evaluate, runs, model, pairs):
    evaluation = evaluate(vectors=[runs["own"], f"{runs['later']}@2"], grid="-1,0,2")
    own, later = vector_of(runs["own"]), vector_of(runs["later"])
    assert len(evaluation.grid) == 9
    for _, row in evaluation.grid.iterrows():
        shifts = {1: row["multiplier_1"] * own, 2: 2 * row["multiplier_2"] * later}
        expected = [answer_log_prob(model, pair.prompt, pair.chosen, shifts)
                    - answer_log_prob(model, pair.prompt, pair.rejected, shifts) for pair in pairs]
        assert row["propensity"] == pytest.approx(numpy.mean(expected), abs=2 * LOG_PROB_TOLERANCE)
    # On the diagonal both are what the curve says.
    both = evaluation.row("grid", multiplier_1=2.0, multiplier_2=2.0)
    curve = evaluation.row("curve", direction="vector", multiplier=2.0)
    for name in ("accuracy", "margin", "propensity", "propensity_low", "propensity_high"):
        assert both[name] == curve[name], name
    # The single pairs are behind each point.
    assert len(evaluation.grid_samples) == 9 * len(pairs)
    for _, row in evaluation.grid.iterrows():
        own = evaluation.rows("grid_samples", multiplier_1=row["multiplier_1"], multiplier_2=row["multiplier_2"])
        assert list(own["pair"]) == list(range(len(pairs)))
        assert (own["chosen_logp"] - own["rejected_logp"]).mean() == pytest.approx(row["propensity"], rel=1e-9)


@pytest.fixture(scope="module")
def neutral_prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("neutral") / "questions.txt"
    path.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reference_text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("the cat and a dog went out in rain\nthey found an old hat\n\nnever tell more about it please\n",
                    encoding="utf-8")
    return path


def rendered(tokenizer, question: str) -> list[int]:
    messages = [{"role": "system", "content": pair_tokens.SYSTEM_PROMPT}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return pair_tokens.encode(tokenizer, text)


def test_costs_are_those_of_transformers(evaluate, runs, model, tokenizer, neutral_prompts, reference_text):
    evaluation = evaluate(vectors=[runs["own"]], neutral_prompts=neutral_prompts, reference_text=reference_text,
                          test=None)
    own = vector_of(runs["own"])
    assert len(evaluation.curve) == 0 and len(evaluation.steerability) == 0
    documents = [pair_tokens.encode_plain(tokenizer, text.strip("\n"))
                 for text in reference_text.read_text(encoding="utf-8").split("\n\n")]
    for multiplier in MULTIPLIERS:
        shifts = {1: multiplier * own}
        total = sum(answer_log_prob(model, ids[:1], ids[1:], shifts) for ids in documents)
        tokens = sum(len(ids) - 1 for ids in documents)
        row = evaluation.row("costs", measure="perplexity_reference_text", direction="vector", multiplier=multiplier)
        assert row["value"] == pytest.approx(math.exp(-total / tokens), rel=2 * LOG_PROB_TOLERANCE)
        assert row["items"] == len(documents)
        divergence, positions = 0.0, 0
        for question in QUESTIONS:
            ids = rendered(tokenizer, question)
            own_logps, steered = all_log_probs(model, ids, {}), all_log_probs(model, ids, shifts)
            divergence += float((own_logps.exp() * (own_logps - steered)).sum())
            positions += len(ids)
        row = evaluation.row("costs", measure="kl_neutral", direction="vector", multiplier=multiplier)
        # Of log-probabilities that are off by 1e-5 or so.
        assert row["value"] == pytest.approx(divergence / positions, abs=1e-5, rel=1e-3)
        assert (row["value"] == 0) == (multiplier == 0)
    assert set(evaluation.costs["direction"]) == {"vector", "random"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory, tiny_model, runs, neutral_prompts) -> Path:
    out = tmp_path_factory.mktemp("generations") / "gen.jsonl"
    program.run_successfully(["generate", *program.options({
        "model": tiny_model, "vector": runs["own"], "prompts": neutral_prompts, "multipliers": "-2,0,2",
        "max_new_tokens": 12, "threads": 1, "out": out})])
    return out


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def joint_answers(tokenizer, prompt_text: str, answers: list[str], eos: bool,
                  plain: bool = False) -> tuple[list[int], list[list[int]]]:
    """What all sequences share, and the rest of each answer."""
    encode = pair_tokens.encode_plain if plain else pair_tokens.encode
    prompt = encode(tokenizer, prompt_text)
    sequences = [encode(tokenizer, prompt_text + answer) + ([tokenizer.eos_token_id] if eos else [])
                 for answer in answers]
    shared = pair_tokens.common_prefix_length([prompt, *sequences])
    return prompt[:shared], [sequence[shared:] for sequence in sequences]


def chat(tokenizer, question: str) -> str:
    messages = [{"role": "system", "content": pair_tokens.SYSTEM_PROMPT}, {"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def own_tokens(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """A row's prompt and its tokens, without EOS at their end."""
    tokens = list(row["tokens"])
    while tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == row["text"]
    return rendered(tokenizer, QUESTIONS[row["prompt_index"]]), tokens


def tokens_of_text(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    prompt, (answer,) = joint_answers(tokenizer, chat(tokenizer, QUESTIONS[row["prompt_index"]]), [row["text"]],
                                      eos=False)
    return prompt, answer


def perplexity(model, sequences: list[tuple[list[int], list[int]]]) -> float:
    total = sum(answer_log_prob(model, prompt, answer, {}) for prompt, answer in sequences)
    return math.exp(-total / sum(len(answer) for _, answer in sequences))


def test_generations_are_scored_by_the_unsteered_model(evaluate, runs, model, tokenizer, generated, tmp_path):
    rows = read_lines(generated)
    assert any(row["finish_reason"] == "length" for row in rows)
    # The same answers as another program would leave them: each was ended, by an EOS among the tokens, or unseen.
    ended = [{**row, "tokens": [*row["tokens"], tokenizer.eos_token_id], "finish_reason": "stop"} for row in rows]
    texts = [{**row, "tokens": None, "finish_reason": "stop"} for row in rows]
    for name, written, sequence_of in (("own", rows, own_tokens), ("ended", ended, own_tokens),
                                       ("texts", texts, tokens_of_text)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
        evaluation = evaluate(f"{name}.h5", vectors=[runs["own"]], generations=path, test=None)
        for multiplier in (-2.0, 0.0, 2.0):
            chosen = [row for row in written if row["multiplier"] == multiplier and row["text"]]
            row = evaluation.row("costs", measure="perplexity_of_generations", multiplier=multiplier)
            assert row["items"] == len(chosen) > 0
            expected = perplexity(model, [sequence_of(tokenizer, entry) for entry in chosen])
            assert row["value"] == pytest.approx(expected, rel=1e-3), (name, multiplier)
            ratio = numpy.mean([len(zlib.compress(text, 9)) / len(text)
                                for text in (entry["text"].encode() for entry in chosen)])
            assert evaluation.row("costs", measure="compression_ratio", multiplier=multiplier)["value"] == (
                pytest.approx(ratio, rel=1e-12))
        assert set(evaluation.costs["direction"]) == {"vector"}


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def choice_log_probs(model, tokenizer, prompt_text, answers, eos, shifts, plain=False) -> numpy.ndarray:
    prompt, tokens = joint_answers(tokenizer, prompt_text, answers, eos, plain)
    return numpy.array([answer_log_prob(model, prompt, answer, shifts) for answer in tokens])


def test_multiple_choice(evaluate, runs, model, tokenizer, tmp_path):
    ab = [["Is it warm?", "yes", "no", "A"], ["Do you think so?", "never", "always", "B"], ["Red?", "ring", "leg", "A"]]
    mc = [("What is on its leg?", ["a ring", "no hat at all", "the old tree"], [1, 0, 0]),
          ("Who went out?", ["a dog", "tea", "the cat"], [1, 0, 1])]
    mmlu = [[f"Question {i}", "cat", "dog", "hat", "tea", "ABCD"[i % 4]] for i in range(4)]
    shots = [[f"Shot {i}", "one", "two", "three", "four", "DCBA"[i % 4]] for i in range(5)]
    folder = tmp_path / "mmlu"
    folder.mkdir()
    write_csv(folder / "old_hats_test.csv", mmlu)
    write_csv(folder / "old_hats_dev.csv", shots)
    lines = [json.dumps({"question": question, "choices": choices, "labels": labels}) for question, choices, labels in mc]
    (tmp_path / "mc.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    evaluation = evaluate(vectors=[runs["own"]], test=None, choices_mc=tmp_path / "mc.jsonl", mmlu=folder,
                          choices_ab=write_csv(tmp_path / "warmth.csv", [["question", "A", "B", "matching"], *ab]))
    own = vector_of(runs["own"])

    def mmlu_text(row):
        letters = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row[1:5]))
        return f"{row[0]}{letters}\nAnswer:"

    head = "The following are multiple choice questions (with answers) about old hats.\n\n"
    head += "".join(f"{mmlu_text(row)} {row[5]}\n\n" for row in shots)
    for multiplier in MULTIPLIERS:
        shifts = {1: multiplier * own}
        expected = {"ab": [], "mc": [], "mmlu": []}
        for question, first, second, matching in ab:
            text = chat(tokenizer, f"{question}\n\nChoices:\n (A) {first}\n (B) {second}")
            logps = choice_log_probs(model, tokenizer, text, ["(A", "(B"], False, shifts)
            expected["ab"].append((logps, numpy.array([matching == "A", matching == "B"])))
        for question, choices, labels in mc:
            logps = choice_log_probs(model, tokenizer, chat(tokenizer, question), choices, True, shifts)
            expected["mc"].append((logps, numpy.array(labels, dtype=bool)))
        for row in mmlu:
            logps = choice_log_probs(model, tokenizer, head + mmlu_text(row), [" A", " B", " C", " D"], False, shifts,
                                     plain=True)
            expected["mmlu"].append((logps, numpy.array([letter == row[5] for letter in "ABCD"])))
        for kind, items in expected.items():
            row = evaluation.row("choices", kind=kind, direction="vector", multiplier=multiplier)
            assert row["items"] == len(items)
            shares = [numpy.exp(logps - logps.max()) for logps, _ in items]
            probability = numpy.mean([share[right].sum() / share.sum()
                                      for share, (_, right) in zip(shares, items)])
            assert row["probability"] == pytest.approx(probability, abs=2 * LOG_PROB_TOLERANCE), kind
            accuracy = numpy.mean([logps[right].max() > logps[~right].max() for logps, right in items])
            assert row["accuracy"] == pytest.approx(accuracy), kind
            single = evaluation.rows("choice_items", kind=kind, direction="vector", multiplier=multiplier)
            assert list(single["item"]) == list(range(len(items)))
            assert list(single["correct"]) == [logps[right].max() > logps[~right].max() for logps, right in items]
            assert single["probability"].mean() == pytest.approx(row["probability"], rel=1e-12)
            assert row["macro_accuracy"] == pytest.approx(accuracy), kind
    assert set(evaluation.choices["set"]) == {"warmth", "mc", "mmlu"}


@pytest.fixture
def everything(runs, neutral_prompts, reference_text, generated) -> dict[str, object]:
    return {"vectors": [runs["own"], runs["later"]], "grid": "-1,1", "neutral_prompts": neutral_prompts,
            "reference_text": reference_text, "generations": generated, "batch_size": 2}


def test_any_number_of_replicas_gives_the_same_bits(evaluate, everything):
    alone = evaluate("alone.h5", **everything)
    for replicas in (2, 4):
        shared = evaluate(f"dp{replicas}.h5", ranks=replicas, dp=replicas, **everything)
        assert shared.attributes["dp"] == replicas
        evaluations.assert_same_tables(shared, alone)


def test_tensor_parallel_ranks_agree(evaluate, everything):
    alone = evaluate("alone.h5", **everything)
    split = evaluate("tp2.h5", ranks=2, tp=2, **everything)
    for name in ("chosen_logp", "rejected_logp"):
        numpy.testing.assert_allclose(split.samples[name], alone.samples[name], rtol=0, atol=LOG_PROB_TOLERANCE)
    numpy.testing.assert_allclose(split.costs["value"], alone.costs["value"], rtol=1e-4, atol=1e-6)
    numpy.testing.assert_allclose(split.grid["propensity"], alone.grid["propensity"], rtol=0,
                                  atol=2 * LOG_PROB_TOLERANCE)


def test_tensor_parallel_ranks_open_the_same_gates(evaluate, runs):
    gated = {"vectors": [runs["own"]], "gate": f"{runs['later']}:0"}
    alone, split = evaluate("alone.h5", **gated), evaluate("tp2.h5", ranks=2, tp=2, **gated)

    def is_open(evaluation: evaluations.EvaluationFile) -> numpy.ndarray:
        steered, plain = (evaluation.rows("samples", direction="vector", multiplier=multiplier)["chosen_logp"]
                          for multiplier in (2.0, 0.0))
        return steered.to_numpy() != plain.to_numpy()

    assert 0 < is_open(alone).sum() < is_open(alone).size, "all gates are alike: the comparison says nothing"
    assert list(is_open(split)) == list(is_open(alone))
    numpy.testing.assert_allclose(split.samples["chosen_logp"], alone.samples["chosen_logp"], rtol=0,
                                  atol=LOG_PROB_TOLERANCE)


def test_transfer_to_a_model_with_an_adapter(evaluate, runs, tiny_model, tmp_path):
    weights = load_file(tiny_model / "model.safetensors")
    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights)).write(tmp_path / "lora")
    own = evaluate("own.h5", [runs["own"]])
    finished = program.run_successfully(evaluate.arguments("lora.h5", [runs["own"]], adapter=adapter))
    transferred = evaluations.read(tmp_path / "lora.h5")
    warnings = [line for line in finished.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "own.h5" in warnings[0] and "transfer" in warnings[0], finished
    assert f"({tiny_model})" in warnings[0] and f"({tiny_model} with the adapter {adapter})" in warnings[0], finished
    assert transferred.config["transfer"] is True and transferred.attributes["adapter"] == str(adapter)
    assert transferred.config["vectors"][0]["model_fingerprint"] == own.config["model_fingerprint"]
    assert abs(transferred.curve["chosen_logp"] - own.curve["chosen_logp"]).min() > 100 * LOG_PROB_TOLERANCE


def test_judges_files(evaluate, runs, generated, tmp_path):
    before = evaluate(vectors=[runs["own"]])
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Score from 1 to 4.\nQuestion: {question}\nAnswer: {response}\n", encoding="utf-8")
    requests = tmp_path / "requests.jsonl"
    finished = program.run_successfully(["evaluate", *program.options({
        "judge_export": requests, "generations": generated, "rubric": rubric, "behaviour": "warmth",
        "judge_model": "some-judge"})])
    lines = read_lines(requests)
    assert len(lines) == 9 and "9 requests" in finished.stdout
    for line, row in zip(lines, read_lines(generated)):
        assert line["body"]["model"] == "some-judge" and line["url"] == "/v1/chat/completions"
        content = line["body"]["messages"][-1]["content"]
        assert QUESTIONS[row["prompt_index"]] in content and row["text"] in content
    results = tmp_path / "results.jsonl"
    scores = [1, 2, 3, 4, 1, 2, 3, 4, 0]
    with open(results, "w", encoding="utf-8") as file:
        for line, score in zip(lines, scores):
            reply = {"choices": [{"message": {"role": "assistant", "content": f"{score or 'none'}\nbecause"}}]}
            file.write(json.dumps({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": reply},
                                   "error": None}) + "\n")
    finished = program.run_successfully(["evaluate", *program.options({
        "judge_import": results, "out": tmp_path / "eval.h5"})])
    assert "warmth" in finished.stdout
    after = evaluations.read(tmp_path / "eval.h5")
    for table in ("curve", "steerability", "samples", "costs"):
        assert after.tables[table].equals(before.tables[table]), table
    same = {"config": "", "checksum": ""}
    assert {**after.attributes, **same} == {**before.attributes, **same}
    assert before.config["judge_import"] == ""
    assert after.config == {**before.config, "judge_import": str(results), "judge_seed": 11}
    assert before.config["judge_scale"] == "1-4"
    numpy.testing.assert_array_equal(after.judge_scores["score"], [score or math.nan for score in scores])
    assert list(after.judge_scores["answer"]) == [""] * 8 + ["none\nbecause"]
    assert "1 of 9 answers have no score from 1 to 4" in finished.stderr and "none" in finished.stderr
    last = after.row("judge", behaviour="warmth", multiplier=2.0)
    assert (last["items"], last["errors"], last["score"]) == (3, 1, (3 + 2) / 2)
    # The same in one go with a model.
    whole = evaluate("whole.h5", [runs["own"]], judge_import=results, judge_export=tmp_path / "again.jsonl",
                     generations=generated, rubric=rubric, behaviour="warmth", judge_model="some-judge")
    assert whole.judge_scores.equals(after.judge_scores) and whole.judge.equals(after.judge)
    assert (tmp_path / "again.jsonl").read_bytes() == requests.read_bytes()
    expected = {"judge_import": str(results), "judge_export": str(tmp_path / "again.jsonl"), "rubric": str(rubric),
                "judge_model": "some-judge", "behaviour": "warmth", "generations": str(generated)}
    assert {name: whole.config[name] for name in expected} == expected


def test_judges_scores_are_on_the_scale_that_was_asked_for(evaluate, runs, generated, tmp_path):
    evaluate(vectors=[runs["own"]])
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    program.run_successfully(["evaluate", *program.options({
        "judge_export": requests, "generations": generated, "behaviour": "warmth", "judge_scale": "0-10",
        "rubric": write_rubric(tmp_path / "rubric.txt", "Rate from {scale}. {question} {response}\n")})])
    ids = [line["custom_id"] for line in read_lines(requests)]
    assert all(line["body"]["messages"][-1]["content"].startswith("Rate from 0 to 10. ") for line in read_lines(requests))
    replies = ["10", "3.5", "-2", "0", "7/10", "8 or 9", "11", "Score: 2", "4. Two of 3 are warm"]
    expected = [10, math.nan, math.nan, 0, 7, math.nan, math.nan, 2, 4]
    results.write_text("".join(json.dumps({"custom_id": custom_id, "error": None, "response": {
        "status_code": 200, "body": {"choices": [{"message": {"content": reply}}]}}}) + "\n"
        for custom_id, reply in zip(ids, replies, strict=True)), encoding="utf-8")
    finished = program.run_successfully(["evaluate", *program.options({
        "judge_import": results, "out": tmp_path / "eval.h5", "judge_scale": "0-10"})])
    assert "judge, 0 to 10" in finished.stdout
    assert "4 of 9 answers have no score from 0 to 10" in finished.stderr
    for reply in ("3.5", "-2", "8 or 9", "11"):
        assert f'"{reply}"' in finished.stderr, finished
    judged = evaluations.read(tmp_path / "eval.h5")
    by_id = {f"{row.behaviour}:{row.prompt}:{row.multiplier:g}": (row.score, row.answer)
             for row in judged.judge_scores.itertuples()}
    numpy.testing.assert_array_equal([by_id[custom_id][0] for custom_id in ids], expected)
    assert [by_id[custom_id][1] for custom_id in ids] == [
        reply if math.isnan(score) else "" for reply, score in zip(replies, expected)]
    assert judged.config["judge_scale"] == "0-10"
    for row in judged.judge.itertuples():
        own = [score for custom_id, score in zip(ids, expected) if custom_id.endswith(f":{row.multiplier:g}")]
        assert row.errors == numpy.isnan(own).sum() and row.score == pytest.approx(numpy.nanmean(own))
    # What is in the file already is on another scale.
    other = tmp_path / "other.jsonl"
    other.write_text(results.read_text(encoding="utf-8").replace("warmth:", "power:"), encoding="utf-8")
    assert_refused(["evaluate", "--judge-import", other, "--out", tmp_path / "eval.h5"], "'warmth'", "--judge-scale 0-10")


def write_rubric(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("ranks", [None, 2])
def test_judges_files_are_checked_before_any_work(evaluate, runs, generated, tmp_path, ranks):
    good = write_rubric(tmp_path / "good.txt", "{question} {response}\n")
    exports = {"vectors": [runs["own"]], "judge_export": tmp_path / "requests.jsonl", "generations": generated,
               "rubric": good, "behaviour": "warmth"}
    for changes, patterns in [
            ({"rubric": write_rubric(tmp_path / "bad.txt", "{question}\n")}, ["bad.txt", "response"]),
            ({"rubric": write_rubric(tmp_path / "examples.txt", "{question} {response} {matching}\n")},
             ["generations", "no row of the test data"]),
            ({"rubric": tmp_path / "none.txt"}, ["none.txt"]),
            ({"behaviour": "a:b"}, ["behaviour", "colon"])]:
        assert_refused(evaluate.arguments(**{**exports, **changes}), *patterns, ranks=ranks)
        assert not (tmp_path / "eval.h5").exists() and not (tmp_path / "requests.jsonl").exists()


def test_requests_are_made_before_scores_are_added(evaluate, runs, generated, tmp_path):
    evaluate(vectors=[runs["own"]])
    before = (tmp_path / "eval.h5").read_bytes()
    results = tmp_path / "results.jsonl"
    results.write_text('{"custom_id": "warmth:0:0", "error": {"message": "no"}, "response": null}\n')
    assert_refused(["evaluate", *program.options({
        "judge_import": results, "out": tmp_path / "eval.h5", "judge_export": tmp_path / "requests.jsonl",
        "generations": generated, "behaviour": "warmth",
        "rubric": write_rubric(tmp_path / "bad.txt", "{question}\n")})], "bad.txt", "response")
    assert (tmp_path / "eval.h5").read_bytes() == before


def test_paths_need_not_be_utf8(evaluate, runs, tiny_test_pairs, tmp_path):
    data = tmp_path / os.fsdecode(b"gr\xf6\xdfe.csv")
    data.write_bytes(tiny_test_pairs.read_bytes())
    evaluation = evaluate(vectors=[runs["own"]], test=data)
    assert evaluation.config["test"] == str(tmp_path / "gr\ufffd\ufffde.csv")
    program.run_successfully(["extract", *program.options({
        "model": evaluate.settings["model"], "train": data, "layer": 1, "threads": 1, "out": tmp_path / "caa.h5"})])
    assert run_files.read(tmp_path / "caa.h5").config["train"] == str(tmp_path / "gr\ufffd\ufffde.csv")


def test_a_control_of_other_pairs_is_told(evaluate, runs, tiny_pairs, tiny_test_pairs, tmp_path):
    """Without a word where the mean difference is over the pairs that the vector was trained on."""
    for name, data in (("same", tiny_pairs), ("other", tiny_test_pairs)):
        program.run_successfully(["extract", *program.options({
            "model": evaluate.settings["model"], "train": data, "layer": 1, "threads": 1, "out": tmp_path / f"{name}.h5"})])
        finished = program.run_successfully(evaluate.arguments(f"{name}-eval.h5", [runs["own"]], caa=tmp_path / f"{name}.h5"))
        pairs = [run_files.read(path).config["train_pairs"] for path in (tmp_path / f"{name}.h5", runs["own"])]
        told = f"the mean difference of other pairs ({pairs[0]}) than those that {runs['own']} was trained on ({pairs[1]})"
        assert (told in finished.stderr) == (name == "other") and finished.stderr.count("--caa") == (name == "other"), finished


def test_answers_of_one_token_are_told(evaluate, runs, tokenizer, tmp_path):
    items = [("Is it?", ["a", "b"]), ("Is it so?", ["a", "cat and hat"])]
    assert [len(pair_tokens.encode(tokenizer, text)) for text in ("a", "b")] == [1, 1]
    path = tmp_path / "mc.jsonl"
    path.write_text("".join(json.dumps({"question": question, "choices": choices, "labels": [1, 0]}) + "\n"
                            for question, choices in items), encoding="utf-8")
    for positions, told in (("answer", True), ("all", False)):
        finished = program.run_successfully(evaluate.arguments(
            f"{positions}.h5", [runs["own"]], test=None, choices_mc=path, no_eos=True, positions=positions))
        assert ("--choices-mc: all answers of 1 of 2 questions are one token" in finished.stderr) == told, finished


def test_bad_neutral_prompts_can_be_left_out(evaluate, runs, tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"prompt": QUESTIONS[0]}, {"other": 1}, {"prompt": "long " * 3000}, {"prompt": QUESTIONS[1]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {"vectors": [runs["own"]], "test": None, "neutral_prompts": path}
    assert_refused(evaluate.arguments(**settings), "questions.jsonl:2")
    finished = program.run_successfully(evaluate.arguments(**settings, skip_bad=True))
    assert "left out: " in finished.stderr and "questions.jsonl:2" in finished.stderr, finished
    assert "and 1 more" in finished.stderr, finished
    row = evaluations.read(tmp_path / "eval.h5").row("costs", measure="kl_neutral", direction="vector", multiplier=2.0)
    assert row["items"] == 2
    path.write_text(json.dumps(rows[2]) + "\n", encoding="utf-8")
    assert_refused(evaluate.arguments("new.h5", **settings, skip_bad=True), "--neutral-prompts", "questions.jsonl:1")


def assert_refused(arguments, *patterns, ranks=None):
    finished = program.run(arguments, ranks, timeout=60)
    assert finished.code == program.BAD_INPUT, finished
    for pattern in patterns:
        assert re.search(pattern, finished.stderr), f"no {pattern!r} in\n{finished}"
    assert finished.stdout == "", finished


class TestRefusals:
    def test_options(self, evaluate, runs, generated):
        own = runs["own"]
        assert_refused(evaluate.arguments(vectors=[own], multipliers="1"), "--multipliers", "two")
        assert_refused(evaluate.arguments(vectors=[own], grid="0,1"), "--grid", "two vectors")
        assert_refused(evaluate.arguments(), "--vector")
        assert_refused(evaluate.arguments(vectors=[own], test=None), "nothing to measure")
        assert_refused(evaluate.arguments(vectors=[own], model=None), "--model")
        assert_refused(evaluate.arguments(vectors=[own], positions="answer", neutral_prompts=generated), "exclude")
        assert_refused(["evaluate", "--judge-export", "x.jsonl", "--generations", generated], "--rubric")
        assert_refused(["evaluate", "--judge-import", generated], "--out")
        assert_refused(evaluate.arguments(vectors=[own], random=2, test=None, neutral_prompts=generated), "--test")
        assert_refused(evaluate.arguments(vectors=[own], choose_on="half", max_test_pairs=1), "--choose-on", "at least two")

    def test_vector_of_another_hidden_size(self, evaluate, runs, tmp_path):
        small = write_model(tmp_path / "small", TinyModel(hidden_size=24))
        assert_refused(evaluate.arguments(vectors=[runs["own"]], model=small), "own.h5", "48", "24")

    def test_layer_out_of_range(self, evaluate, runs, tmp_path):
        shallow = write_model(tmp_path / "shallow", TinyModel(layers=2))
        assert_refused(evaluate.arguments(vectors=[runs["later"]], model=shallow), "later.h5", "layer 2", ranks=2)

    def test_control_of_another_layer(self, evaluate, runs):
        assert_refused(evaluate.arguments(vectors=[runs["own"]], caa=runs["later"]), "--caa", "layer 2", "layer 1")
        assert_refused(evaluate.arguments(vectors=[runs["own"], runs["later"]], caa=runs["other"]), "--caa", "one layer")

    def test_files(self, evaluate, runs, tmp_path):
        own = runs["own"]
        evaluate(vectors=[own])
        assert_refused(evaluate.arguments(vectors=[own]), "exists already", "--overwrite")
        program.run_successfully(evaluate.arguments(vectors=[own], overwrite=True))
        assert_refused(evaluate.arguments("new.h5", [tmp_path / "none.h5"]), "none.h5", "no such file")
        assert_refused(evaluate.arguments("new.h5", [own], test=tmp_path / "none.csv"), "none.csv")
        results = tmp_path / "results.jsonl"
        results.write_text('{"custom_id": "warmth:0:1", "error": {"message": "no"}, "response": null}\n')
        assert_refused(["evaluate", "--judge-import", results, "--out", own], "own.h5", "not an evaluation file")

    def test_inputs_are_never_overwritten(self, evaluate, runs, generated, tiny_test_pairs, tmp_path):
        own = runs["own"]
        rubric = write_rubric(tmp_path / "rubric.txt", "{question} {response}\n")
        link = tmp_path / "link.h5"
        link.symlink_to(own)
        exports = {"judge_export": tmp_path / "requests.jsonl", "generations": generated, "rubric": rubric,
                   "behaviour": "warmth"}
        before = {path: path.read_bytes() for path in (own, generated, tiny_test_pairs, rubric)}
        for changes in [{"out": own}, {"out": link}, {"out": tiny_test_pairs},
                        {"caa": runs["other"], "out": runs["other"]}, {"out": generated}, {"out": rubric}, {"judge_export": generated}, {"judge_export": rubric},
                        {"out": tmp_path / "same", "judge_export": tmp_path / "." / "same"}]:
            arguments = evaluate.arguments(vectors=[own], **{**exports, **changes}, overwrite=True)
            assert_refused(arguments, "name another")
        assert_refused(["evaluate", *program.options({**exports, "judge_export": generated, "overwrite": True})],
                       "--judge-export", "also an input")
        for changes in ({"out": tiny_test_pairs}, {"out": own, "match_norm": own}):
            assert_refused(["extract", *program.options({
                "model": evaluate.settings["model"], "train": tiny_test_pairs, "layer": 1, **changes,
                "overwrite": True})], "--out", "also an input")
        for changes in ({"out": own}, {"out": tiny_test_pairs}):
            assert_refused(["generate", "--vector", own, *program.options({
                "model": evaluate.settings["model"], "prompts": tiny_test_pairs, **changes, "overwrite": True})],
                "--out", "also an input")
        assert_refused(["train", *program.options({
            "model": evaluate.settings["model"], "train": tiny_test_pairs, "layer": 1, "out": tiny_test_pairs,
            "overwrite": True})], "--out", "also an input")
        assert all(path.read_bytes() == content for path, content in before.items())
        assert not (tmp_path / "new.h5").exists()
