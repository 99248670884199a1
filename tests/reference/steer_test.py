"""bipo_analysis.steer on models of transformers 4 and 5 says what the program says: log-probabilities and texts."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import program
import user_files
from documentation import SOURCE

sys.path.insert(0, str(SOURCE / "experiments" / "analysis"))
from bipo_analysis import AnalysisError, load_evaluation, load_run, load_vector, steer  # noqa: E402

transformers.logging.set_verbosity_error()
LAYER = 1
# Sums of some 40 log-probabilities, two float32 implementations.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, two runs of two epochs on different layers, and evaluations of both vectors together."""
    folder = tmp_path_factory.mktemp("steer")
    model = user_files.write_base(folder / "model")
    common = {"model": model, "threads": 1, "system_prompt": "", "dtype": "fp32", "device": "cpu"}
    for name, layer in (("run.h5", LAYER), ("other.h5", 0)):
        program.run_successfully(["train", *program.options({
            **common, "train": model / "pairs.csv", "test": model / "pairs.csv", "layer": layer, "epochs": 2,
            "batch_size": 1,
            "lr_unit": "absolute", "lr": 0.3, "warmup_steps": 0, "multipliers": "-1,0,1", "out": folder / name})])
    both = ["--vector", folder / "run.h5", "--vector", f"{folder / 'other.h5'}@0.5"]
    for positions in ("all", "answer"):
        program.run_successfully(["evaluate", *both, *program.options({
            **common, "test": model / "pairs.csv", "multipliers": "-2,1.5", "positions": positions,
            "random_control": "off", "out": folder / f"{positions}.h5"})])
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)


@pytest.fixture(scope="module")
def scored(folder) -> list[tuple[int, list[int]]]:
    """Tokens of the prompt, and all tokens, of both answers of each pair."""
    fast = AutoTokenizer.from_pretrained(folder / "model")
    found = []
    for pair in csv.DictReader(open(folder / "model" / "pairs.csv", newline="", encoding="utf-8")):
        prompt = fast.apply_chat_template([{"role": "user", "content": pair["question"]}], add_generation_prompt=True,
                                          tokenize=False)
        count = len(fast(prompt, add_special_tokens=False).input_ids)
        for column in ("matching", "not_matching"):
            ids = fast(prompt + pair[column], add_special_tokens=False).input_ids
            found.append((count, [*ids, fast.eos_token_id]))
    return found


def log_probs(model, scored, **positions) -> numpy.ndarray:
    """Of both answers of each pair, one row a pair; `positions` go to a steering that is made for each of them."""
    sums = []
    for count, ids in scored:
        with torch.no_grad(), steer(model, **{**positions, "prompt_tokens": count}):
            table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(table[place - 1, ids[place]].item() for place in range(count, len(ids))))
    return numpy.array(sums).reshape(-1, 2)


@pytest.mark.parametrize("multiplier", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("epoch", [1, 2])
def test_log_probabilities_are_those_of_the_run_file(folder, model, scored, epoch, multiplier):
    evals = load_run(folder / "run.h5").evals
    row = evals[(evals["epoch"] == epoch - 1) & (evals["multiplier"] == multiplier)].iloc[0]
    found = log_probs(model, scored, vectors=f"{folder / 'run.h5'}:epoch={epoch}", multiplier=multiplier)
    numpy.testing.assert_allclose(found.mean(axis=0), [row["chosen_logp"], row["rejected_logp"]], rtol=0,
                                  atol=TOLERANCE)


@pytest.mark.parametrize("multiplier", [-2.0, 1.5])
@pytest.mark.parametrize("positions", ["all", "answer"])
def test_two_vectors_pair_by_pair(folder, model, scored, positions, multiplier):
    samples = load_evaluation(folder / f"{positions}.h5").samples.query("multiplier == @multiplier")
    found = log_probs(model, scored, vectors=[folder / "run.h5", f"{folder / 'other.h5'}@0.5"],
                      multiplier=multiplier, positions=positions)
    numpy.testing.assert_allclose(found, samples[["chosen_logp", "rejected_logp"]], rtol=0, atol=TOLERANCE)


def test_positions_and_vectors_matter(folder):
    """Without that, any hook would do."""
    both, answer = (load_evaluation(folder / f"{name}.h5").samples["chosen_logp"] for name in ("all", "answer"))
    assert abs(both - answer).min() > 10 * TOLERANCE
    first, second = (load_vector(f"{folder / 'run.h5'}:epoch={epoch}").value for epoch in (1, 2))
    assert numpy.abs(first - second).max() > 0.01


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_generate_grows_the_programs_texts(folder, model, tmp_path, positions):
    """Two prompts of different lengths in one batch, padded on the left, with keys and values kept."""
    prompts = ["Where are the keys?", "Where are they then, and since when? Tell me now."]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    program.run_successfully(["generate", *program.options({
        "model": folder / "model", "vector": folder / "run.h5", "prompts": tmp_path / "prompts.txt",
        "system_prompt": "", "max_new_tokens": 12, "multipliers": "2", "positions": positions,
        "out": tmp_path / "texts.jsonl"})])
    expected = [json.loads(line)["tokens"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    fast = AutoTokenizer.from_pretrained(folder / "model")
    ids = [fast(fast.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                         tokenize=False), add_special_tokens=False).input_ids for prompt in prompts]
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    with steer(model, folder / "run.h5", 2, positions, [len(row) for row in ids]):
        made = model.generate(padded, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    for row, wanted in zip(made[:, width:].tolist(), expected, strict=True):
        assert row[:len(wanted)] == wanted


def test_the_model_is_as_before_afterwards(folder, model, scored):
    ids = torch.tensor([scored[0][1]])
    with torch.no_grad():
        before = model(ids).logits
        with steer(model, folder / "run.h5") as steering:
            steered = model(ids).logits
            steering.multiplier = 0.0
            off = model(ids).logits
        after = model(ids).logits
    assert torch.equal(before, after) and torch.equal(before, off) and not torch.equal(before, steered)


def test_bad_input_is_named(folder, model):
    with pytest.raises(AnalysisError, match="no vector of epoch 3, counted from 1; it has 1, 2"):
        load_vector(f"{folder / 'run.h5'}:epoch=3")
    with pytest.raises(AnalysisError, match="prompt_tokens"):
        steer(model, folder / "run.h5", positions="answer")
    with pytest.raises(AnalysisError, match="no such file"):
        steer(model, "nothing.h5:best")
    best = load_vector(f"{folder / 'run.h5'}:best@-2")
    assert any(numpy.array_equal(best.value, -2 * vector) for vector in load_run(folder / "run.h5").vectors)
