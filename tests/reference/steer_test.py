"""bipo_analysis.steer on models of transformers 4 and 5 says what the program says: log-probabilities and texts."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import program
import user_files
from documentation import SOURCE

sys.path.insert(0, str(SOURCE / "experiments" / "analysis"))
from bipo_analysis import (  # noqa: E402
    AnalysisError, load_conceptor, load_evaluation, load_run, load_sweep, load_vector, load_vectors, steer)

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


RULES = {"answer": lambda t, n: t >= n, "prompt": lambda t, n: t < n,
         "first:2,last:1": lambda t, n: t < 2 or t == n - 1, "last:3": lambda t, n: n - 3 <= t < n}


def hooked(model, layer: int, change):
    """A hook of PyTorch alone: `change(h)` [tokens, hidden] in place of the block's output."""
    def hook(_, __, output):
        h = output[0] if isinstance(output, tuple) else output
        changed = change(h[0]).unsqueeze(0)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed
    return model.model.layers[layer].register_forward_hook(hook)


def answer_log_probs(model, scored, change, layer=LAYER) -> torch.Tensor:
    """[pairs, 2]; `change(h, prompt)` is what happens to the block's output h."""
    sums = []
    for count, ids in scored:
        handle = hooked(model, layer, lambda h, count=count: change(h, count))
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        handle.remove()
        sums.append(sum(table[place - 1, ids[place]] for place in range(count, len(ids))))
    return torch.stack(sums).view(-1, 2)


@pytest.fixture(scope="module")
def positioned(folder, scored) -> dict[str, Path]:
    """One step on all pairs at each rule's positions."""
    runs = {}
    for rule in RULES:
        runs[rule] = folder / f"at-{rule.replace(':', '').replace(',', '-')}.h5"
        program.run_successfully(["train", *program.options({
            "model": folder / "model", "train": folder / "model" / "pairs.csv",
            "test": folder / "model" / "pairs.csv", "layer": LAYER, "positions": rule, "epochs": 1, "max_steps": 1,
            "batch_size": len(scored) // 2, "sign": "plus", "lr_unit": "absolute", "lr": 0.3, "warmup_steps": 0,
            "multipliers": "-1,0,1", "system_prompt": "", "dtype": "fp32", "device": "cpu", "threads": 1,
            "out": runs[rule]})])
    return runs


@pytest.mark.parametrize("rule", RULES)
def test_a_step_at_positions_has_pytorchs_gradient(positioned, model, scored, rule):
    vector = torch.zeros(64, requires_grad=True)

    def add(h, prompt):
        mask = torch.tensor([float(RULES[rule](t, prompt)) for t in range(len(h))]).unsqueeze(1)
        return h + mask * vector
    found = answer_log_probs(model, scored, add)
    margins = 0.1 * ((found[:, 0] - found[:, 1]) - (found[:, 0] - found[:, 1]).detach())
    torch.nn.functional.softplus(-margins).mean().backward()
    gradient = vector.grad.numpy()
    run = load_run(positioned[rule])
    assert run.settings["steered_positions"] == rule
    # Sums over some 40 tokens and 10 pairs, two float32 implementations.
    assert run.steps["grad_norm"].iloc[0] == pytest.approx(numpy.linalg.norm(gradient), rel=1e-3)
    # AdamW's first step has the length of the rate in every element, against the gradient.
    is_clear = numpy.abs(gradient) > 1e-3 * numpy.abs(gradient).max()
    assert is_clear.sum() > 50
    assert (numpy.sign(run.vectors[-1]) == -numpy.sign(gradient))[is_clear].all()


@pytest.mark.parametrize("rule", RULES)
def test_a_runs_positions_are_those_of_its_evaluation_and_use(positioned, model, scored, tmp_path, rule):
    """Of the held-out pairs in training, of evaluate, and of bipo_analysis.steer, none of which is told."""
    run = positioned[rule]
    evaluation = program.run_successfully(["evaluate", "--vector", run, *program.options({
        "model": model.name_or_path, "test": Path(model.name_or_path) / "pairs.csv", "multipliers": "-1,1",
        "system_prompt": "", "dtype": "fp32", "device": "cpu", "random_control": "off", "out": tmp_path / "e.h5"})])
    assert f"steered positions: {rule}" in evaluation.stderr
    samples = load_evaluation(tmp_path / "e.h5").samples.query("multiplier == 1")[["chosen_logp", "rejected_logp"]]
    found = log_probs(model, scored, vectors=run)
    numpy.testing.assert_allclose(found, samples, rtol=0, atol=TOLERANCE)
    trained = load_run(run).evals.query("multiplier == 1").iloc[-1]
    numpy.testing.assert_allclose(found.mean(axis=0), [trained["chosen_logp"], trained["rejected_logp"]], rtol=0,
                                  atol=TOLERANCE)
    everywhere = log_probs(model, scored, vectors=run, positions="all")
    assert numpy.abs(everywhere - found).max() > 10 * TOLERANCE


def test_positions_are_compared_and_said(positioned, folder, tmp_path):
    run = positioned["prompt"]
    resumed = program.run(["train", *program.options({
        "model": folder / "model", "train": folder / "model" / "pairs.csv", "layer": LAYER, "out": run,
        "system_prompt": ""}), "--resume"])
    assert resumed.code == program.BAD_INPUT and '--positions was "prompt", now the default' in resumed.stderr
    both = program.run(["generate", "--vector", run, "--vector", folder / "run.h5", *program.options({
        "model": folder / "model", "prompt": "Where are the keys?"})])
    assert both.code == program.BAD_INPUT and "different positions" in both.stderr
    other = program.run_successfully(["generate", "--vector", run, *program.options({
        "model": folder / "model", "prompt": "Where are the keys?", "positions": "all", "max_new_tokens": 2})])
    assert "trained with --positions prompt, used with all as given" in " ".join(other.stderr.split())
    for form in ("gguf", "pt", "npy", "safetensors"):
        exported = program.run_successfully(["export", run, "--format", form, "--out", tmp_path / f"v.{form}"])
        assert ("trained at the positions prompt" in " ".join(exported.stderr.split())) == (form != "safetensors")
    assert b"the positions prompt" in (tmp_path / "v.safetensors").read_bytes()


def projected(vector, intervention: str, multiplier: float):
    """What an intervention does to rows h, by the definitions in docs/generate.md."""
    unit = vector / vector.norm()

    def change(h):
        component = (h @ unit).unsqueeze(1)
        if intervention == "null":
            return h - multiplier * component * unit
        level = multiplier * float(intervention.removeprefix("clamp:"))
        return h + (level - component) * unit
    return change


@pytest.mark.parametrize(("intervention", "positions"), [("null", "all"), ("clamp:3", "all"), ("clamp:3", "answer")])
def test_interventions_are_those_of_hooks(folder, model, scored, tmp_path, intervention, positions):
    vector = torch.from_numpy(load_vector(folder / "run.h5").value)
    program.run_successfully(["evaluate", "--vector", folder / "run.h5", *program.options({
        "model": folder / "model", "test": folder / "model" / "pairs.csv", "multipliers": "-0.5,0,1",
        "intervention": intervention, "positions": positions, "system_prompt": "", "dtype": "fp32", "device": "cpu",
        "random_control": "off", "out": tmp_path / "e.h5"})])
    samples = load_evaluation(tmp_path / "e.h5").samples
    for multiplier in (-0.5, 0.0, 1.0):
        def change(h, prompt, multiplier=multiplier):
            if multiplier == 0:
                return h
            changed = projected(vector, intervention, multiplier)(h)
            return changed if positions == "all" else torch.cat([h[:prompt], changed[prompt:]])
        with torch.no_grad():
            found = answer_log_probs(model, scored, change).numpy()
        rows = samples.query("multiplier == @multiplier")[["chosen_logp", "rejected_logp"]]
        numpy.testing.assert_allclose(found, rows, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def conceptor(folder) -> Path:
    file = folder / "conceptor.h5"
    program.run_successfully(["extract", *program.options({
        "method": "conceptor", "model": folder / "model", "train": folder / "model" / "pairs.csv", "layer": LAYER,
        "system_prompt": "", "aperture": 2, "dtype": "fp32", "device": "cpu", "threads": 1, "out": file})])
    return file


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_a_conceptor_is_that_of_a_hook(folder, model, scored, conceptor, tmp_path, positions):
    """h + m (beta C h - h), of evaluate and of bipo_analysis.steer."""
    matrix = torch.from_numpy(load_conceptor(conceptor).matrix).float()
    evaluated = program.run_successfully(["evaluate", "--vector", f"{conceptor}@1.25", *program.options({
        "model": folder / "model", "test": folder / "model" / "pairs.csv", "multipliers": "-0.5,0,1",
        "positions": positions, "system_prompt": "", "dtype": "fp32", "device": "cpu", "out": tmp_path / "e.h5"})])
    assert "conceptor of layer 1" in " ".join(evaluated.stderr.split())
    evaluation = load_evaluation(tmp_path / "e.h5")
    (used,) = evaluation.settings["vectors"]
    assert (used["kind"], used["weight"], used["layer"]) == ("conceptor", 1.25, LAYER) and "norm" not in used
    norms = evaluation.steerability.set_index("direction")["norm"]
    frobenius = numpy.linalg.norm(1.25 * matrix.numpy() - numpy.eye(len(matrix)))
    assert norms["vector"] == pytest.approx(frobenius, rel=1e-5) and norms["random"] == norms["vector"]
    for multiplier in (-0.5, 0.0, 1.0):
        def change(h, prompt, multiplier=multiplier):
            changed = h + multiplier * (1.25 * h @ matrix - h)
            return changed if positions == "all" else torch.cat([h[:prompt], changed[prompt:]])
        with torch.no_grad():
            found = answer_log_probs(model, scored, change).numpy()
        rows = evaluation.samples.query("multiplier == @multiplier and direction == 'vector'")
        rows = rows[["chosen_logp", "rejected_logp"]]
        numpy.testing.assert_allclose(found, rows, rtol=0, atol=TOLERANCE)
        steered = log_probs(model, scored, vectors=f"{conceptor}@1.25", multiplier=multiplier, positions=positions)
        numpy.testing.assert_allclose(steered, rows, rtol=0, atol=TOLERANCE)
    both = evaluation.samples.query("multiplier == 1").set_index("direction")["chosen_logp"]
    assert abs(both["vector"].to_numpy() - both["random"].to_numpy()).max() > 10 * TOLERANCE


def test_a_conceptor_beside_a_vector_in_generate(folder, model, conceptor, tmp_path):
    """They act in the order given, here and in bipo_analysis.steer."""
    prompt = "Where are the keys?"
    fast = AutoTokenizer.from_pretrained(folder / "model")
    ids = fast(fast.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                        tokenize=False), add_special_tokens=False).input_ids
    logits = []
    for number, vectors in enumerate(([conceptor, folder / "run.h5"], [folder / "run.h5", f"{conceptor}@2"])):
        out = tmp_path / f"{number}.jsonl"
        program.run_successfully(["generate", *(word for each in vectors for word in ("--vector", each)),
                                  *program.options({"model": folder / "model", "prompt": prompt, "system_prompt": "",
                                                    "max_new_tokens": 12, "multipliers": "1", "dtype": "fp32",
                                                    "device": "cpu", "out": out})])
        row = json.loads(out.read_text())
        with steer(model, vectors, 1), torch.no_grad():
            logits.append(model(torch.tensor([ids])).logits)
            expected = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert expected[0, len(ids):].tolist()[:len(row["tokens"])] == row["tokens"]
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_where_a_conceptor_cannot_be_used_is_said(folder, conceptor, tmp_path):
    def refusal(command, *words, **settings) -> str:
        finished = program.run([command, *words, *program.options(settings)])
        assert finished.code == program.BAD_INPUT and str(conceptor) in finished.stderr, finished
        return " ".join(finished.stderr.split())
    for form in ("gguf", "pt", "npy", "safetensors", "lm-eval", "vllm-hook"):
        assert "no format can carry" in refusal("export", conceptor, format=form, out=tmp_path / "v.pt")
    model, pairs = folder / "model", folder / "model" / "pairs.csv"
    use = {"model": model, "prompt": "Why?", "system_prompt": ""}
    assert "holds a conceptor" in refusal("generate", vector=folder / "run.h5", gate=f"{conceptor}:0", **use)
    assert "--intervention null" in refusal("generate", vector=conceptor, intervention="null", **use)
    assert "no epochs" in refusal("generate", vector=f"{conceptor}:best", **use)
    measure = {"model": model, "test": pairs, "system_prompt": "", "out": tmp_path / "e.h5"}
    assert "holds a conceptor" in refusal("evaluate", vector=folder / "run.h5", caa=conceptor, **measure)
    assert "holds a conceptor" in refusal("extract", model=model, train=pairs, layer=LAYER, match_norm=conceptor,
                                          out=tmp_path / "v.h5")
    work = {"model": model, "train": pairs, "layer": LAYER, "system_prompt": "", "out": tmp_path / "v.h5"}
    assert "holds a conceptor" in refusal("extract", method="ensemble", vector=conceptor, **work)
    for start in ("continue_from", "init"):
        assert "holds a conceptor" in refusal("train", **{**work, start: conceptor})
    mixed = program.run(["evaluate", "--vector", conceptor, "--vector", folder / "run.h5", *program.options(measure)])
    assert mixed.code == program.BAD_INPUT and "evaluate them apart" in " ".join(mixed.stderr.split()), mixed
    controlled = program.run(["evaluate", *program.options({**measure, "vector": conceptor,
                                                            "caa": folder / "run.h5"})])
    assert controlled.code == program.BAD_INPUT and "--caa" in controlled.stderr, controlled
    many = program.run(["evaluate", *program.options({**measure, "vector": conceptor, "random": 10**12})])
    assert many.code == program.BAD_INPUT and "random ones for each" in " ".join(many.stderr.split()), many
    with h5py.File(conceptor) as whole, h5py.File(tmp_path / "small.h5", "w") as small:
        for name in set(whole.attrs) - {"checksum"}:
            small.attrs[name] = whole.attrs[name]
        small.attrs["hidden_size"] = numpy.int64(16)
        small.create_dataset("conceptor", data=whole["conceptor"][:16, :16], chunks=(16, 16))
    wrong = program.run(["generate", *program.options({**use, "vector": tmp_path / "small.h5"})])
    assert wrong.code == program.BAD_INPUT and "hidden size is 64" in " ".join(wrong.stderr.split()), wrong
    combined = program.run(["extract", "--method", "conceptor-and", "--vector", conceptor, "--vector",
                            tmp_path / "small.h5", "--out", tmp_path / "c.h5"])
    assert combined.code == program.BAD_INPUT and "hidden size" in " ".join(combined.stderr.split()), combined
    with pytest.raises(AnalysisError, match="holds a conceptor"):
        load_run(conceptor)
    with pytest.raises(AnalysisError, match="no conceptor"):
        load_conceptor(folder / "run.h5")
    with pytest.raises(AnalysisError, match="holds a conceptor, which has no report"):
        load_sweep(conceptor)
    inspected = json.loads(program.run_successfully(["inspect", conceptor, "--json"]).stdout)
    assert inspected["kind"] == "conceptor" and inspected["quota"] == pytest.approx(load_conceptor(conceptor).quota)
    assert "dimensions pass" in program.run_successfully(["inspect", conceptor]).stdout


def mlp_log_probs(model, scored, changes) -> torch.Tensor:
    """[pairs, 2]; `changes[layer](h, prompt)` is what happens to the output h of the MLP of a block."""
    sums = []
    for count, ids in scored:
        handles = [model.model.layers[layer].mlp.register_forward_hook(
            lambda _, __, h, change=change, count=count: change(h[0], count).unsqueeze(0))
            for layer, change in changes.items()]
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        sums.append(sum(table[place - 1, ids[place]] for place in range(count, len(ids))))
    return torch.stack(sums).view(-1, 2)


AT_MLPS = (0, 2)  # of three blocks


@pytest.fixture(scope="module")
def normed(folder) -> Path:
    """A model with a norm behind its MLPs, the same tokens and pairs, and run.h5: one step on all pairs at two MLPs."""
    directory = user_files.copy_of(folder / "model", folder / "normed")
    fast = AutoTokenizer.from_pretrained(directory)
    config = transformers.Olmo2Config(
        vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        pad_token_id=None, bos_token_id=None, eos_token_id=fast.eos_token_id)
    user_files.make_loud(transformers.Olmo2ForCausalLM(config).float()).save_pretrained(directory)
    train_at_mlps(directory, directory / "run.h5", layer="0,2", positions="answer")
    return directory


def train_at_mlps(model: Path, out: Path, **more: object) -> None:
    program.run_successfully(["train", *program.options({
        "model": model, "train": model / "pairs.csv", "test": model / "pairs.csv", "site": "mlp", "epochs": 1,
        "max_steps": 1, "batch_size": len(user_files.PAIRS), "sign": "plus", "lr_unit": "absolute", "lr": 0.3,
        "warmup_steps": 0, "multipliers": "-1,0,1", "system_prompt": "", "dtype": "fp32", "device": "cpu", "threads": 1,
        "out": out, **more})])


@pytest.fixture(scope="module")
def normed_model(normed):
    return AutoModelForCausalLM.from_pretrained(normed, dtype=torch.float32)


def test_a_step_at_mlps_has_pytorchs_gradient(normed, normed_model, scored):
    vectors = {layer: torch.zeros(64, requires_grad=True) for layer in AT_MLPS}

    def adding(vector):
        return lambda h, prompt: h + (torch.arange(len(h)) >= prompt).unsqueeze(1) * vector
    found = mlp_log_probs(normed_model, scored, {layer: adding(vector) for layer, vector in vectors.items()})
    margins = 0.1 * ((found[:, 0] - found[:, 1]) - (found[:, 0] - found[:, 1]).detach())
    torch.nn.functional.softplus(-margins).mean().backward()
    gradient = numpy.concatenate([vector.grad.numpy() for vector in vectors.values()])
    run = load_run(normed / "run.h5")
    assert run.site == "mlp" and run.settings["site"] == "mlp" and run.attributes["schema_version"] == 2
    assert run.steps["grad_norm"].iloc[0] == pytest.approx(numpy.linalg.norm(gradient), rel=1e-3)
    is_clear = numpy.abs(gradient) > 1e-3 * numpy.abs(gradient).max()
    assert is_clear.sum() > 100
    assert (numpy.sign(run.vectors[-1]) == -numpy.sign(gradient))[is_clear].all()


def test_a_runs_site_is_that_of_its_evaluation_and_use(normed, normed_model, scored, tmp_path):
    """Of the held-out pairs in training, of evaluate, generate and bipo_analysis.steer, none of which is told."""
    run = normed / "run.h5"
    common = {"model": normed, "test": normed / "pairs.csv", "system_prompt": "", "dtype": "fp32", "device": "cpu"}
    evaluation = program.run_successfully(["evaluate", "--vector", run, *program.options({
        **common, "multipliers": "-1,1", "out": tmp_path / "e.h5"})])
    assert "vector of the MLP of layer 2" in evaluation.stderr
    used = load_evaluation(tmp_path / "e.h5")
    samples = used.samples.query("direction == 'vector' and multiplier == 1")[["chosen_logp", "rejected_logp"]]
    assert [entry["site"] for entry in used.settings["vectors"]] == ["mlp", "mlp"]
    found = log_probs(normed_model, scored, vectors=run)
    numpy.testing.assert_allclose(found, samples, rtol=0, atol=TOLERANCE)
    trained = load_run(run).evals.query("multiplier == 1").iloc[-1]
    numpy.testing.assert_allclose(found.mean(axis=0), [trained["chosen_logp"], trained["rejected_logp"]], rtol=0,
                                  atol=TOLERANCE)
    vectors = load_vectors(run)
    assert [(vector.layer, vector.site) for vector in vectors] == [(layer, "mlp") for layer in AT_MLPS]
    at_blocks = log_probs(normed_model, scored, vectors=[replace(vector, site="block") for vector in vectors])
    assert numpy.abs(at_blocks - found).max() > 10 * TOLERANCE

    program.run_successfully(["evaluate", "--vector", run, *program.options({
        **common, "multipliers": "0,0.5", "intervention": "clamp:3", "positions": "all", "random_control": "off",
        "out": tmp_path / "clamped.h5"})])

    def clamping(vector):
        return lambda h, prompt: projected(torch.from_numpy(vector.value.copy()), "clamp:3", 0.5)(h)
    with torch.no_grad():
        expected = mlp_log_probs(normed_model, scored, {vector.layer: clamping(vector) for vector in vectors})
    clamped = load_evaluation(tmp_path / "clamped.h5").samples.query("multiplier == 0.5")
    numpy.testing.assert_allclose(clamped[["chosen_logp", "rejected_logp"]], expected, rtol=0, atol=TOLERANCE)

    program.run_successfully(["generate", *program.options({
        "model": normed, "vector": run, "prompt": "Where are the keys?", "system_prompt": "", "max_new_tokens": 12,
        "multipliers": "2", "positions": "all", "dtype": "fp32", "device": "cpu", "out": tmp_path / "texts.jsonl"})])
    wanted = json.loads((tmp_path / "texts.jsonl").read_text())["tokens"]
    fast = AutoTokenizer.from_pretrained(normed)
    ids = fast(fast.apply_chat_template([{"role": "user", "content": "Where are the keys?"}], add_generation_prompt=True,
                                        tokenize=False), add_special_tokens=False).input_ids
    with steer(normed_model, run, 2, "all"):
        made = normed_model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert made[0, len(ids):].tolist()[:len(wanted)] == wanted


def test_exports_of_mlp_vectors_are_exact_or_refused(folder, normed, model, scored, tmp_path):
    """What is added to the MLP of a Llama can be added to the block's output; behind a norm nothing can."""
    refused = program.run(["export", normed / "run.h5", "--format", "safetensors", "--out", tmp_path / "v.safetensors"])
    assert refused.code == program.BAD_INPUT and "before a norm" in " ".join(refused.stderr.split()), refused
    assert not (tmp_path / "v.safetensors").exists()
    train_at_mlps(folder / "model", tmp_path / "llama.h5", layer=LAYER)
    exported = program.run_successfully(["export", tmp_path / "llama.h5", "--format", "npy", "--out",
                                         tmp_path / "v.npy"])
    said = " ".join(exported.stderr.split())
    assert "does the same where it is added to the block's output" in said and "null and clamp do not" in said
    at_mlp = load_vector(tmp_path / "llama.h5")
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "v.npy"), at_mlp.value)
    at_block = replace(at_mlp, value=numpy.load(tmp_path / "v.npy"), site="block")
    numpy.testing.assert_allclose(log_probs(model, scored, vectors=at_block), log_probs(model, scored, vectors=at_mlp),
                                  rtol=0, atol=TOLERANCE)


# The gate below, at and above the steered block.
@pytest.mark.parametrize("layer", [0, LAYER, 2])
def test_a_gate_opens_by_the_last_prompt_token(folder, model, tmp_path, layer):
    prompts = ["Where are the keys?", "Where are they then, and since when? Tell me now.", "Why?"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    torch.manual_seed(layer)
    torch.save(torch.randn(64), tmp_path / "gate.pt")
    gate = tmp_path / "gate.h5"
    program.run_successfully(["import", tmp_path / "gate.pt", "--layer", layer, "--out", gate])
    direction = torch.load(tmp_path / "gate.pt")
    fast = AutoTokenizer.from_pretrained(folder / "model")
    ids = [fast(fast.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                         tokenize=False), add_special_tokens=False).input_ids for prompt in prompts]
    components = []
    for row in ids:
        seen = []
        handle = hooked(model, layer, lambda h, seen=seen: seen.append(h[-1]) or h)
        with torch.no_grad():
            model(torch.tensor([row]))
        handle.remove()
        components.append((seen[0] @ direction / direction.norm()).item())
    threshold = sum(sorted(components)[:2]) / 2  # between the lowest and the next
    common = {"model": folder / "model", "vector": folder / "run.h5", "prompts": tmp_path / "prompts.txt",
              "system_prompt": "", "max_new_tokens": 8, "multipliers": "0,2", "dtype": "fp32", "device": "cpu"}

    def rows(name, **more):
        program.run_successfully(["generate", *program.options({**common, **more, "out": tmp_path / name})])
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    gated, free = rows("gated.jsonl", gate=f"{gate}:{threshold}"), rows("free.jsonl")
    assert "gate_open" not in free[0]
    for index, component in enumerate(components):
        is_open = component > threshold
        off, on = gated[2 * index:2 * index + 2]
        assert off["gate_open"] is is_open and on["gate_open"] is is_open
        assert off["tokens"] == free[2 * index]["tokens"]
        assert on["tokens"] == free[2 * index + is_open]["tokens"]


def test_a_gate_opens_pair_by_pair_in_evaluate(folder, model, scored, tmp_path):
    torch.manual_seed(3)
    direction = torch.randn(64)
    torch.save(direction, tmp_path / "gate.pt")
    program.run_successfully(["import", tmp_path / "gate.pt", "--layer", 0, "--out", tmp_path / "gate.h5"])
    components = []
    for count, ids in scored[::2]:
        seen = []
        handle = hooked(model, 0, lambda h, seen=seen: seen.append(h[-1]) or h)
        with torch.no_grad():
            model(torch.tensor([ids[:count]]))
        handle.remove()
        components.append((seen[0] @ direction / direction.norm()).item())
    ordered = numpy.sort(components)
    below = int(numpy.diff(ordered).argmax())  # the threshold lies in the widest gap
    threshold = (ordered[below] + ordered[below + 1]) / 2
    is_open = numpy.array(components) > threshold
    assert is_open.any() and not is_open.all()

    def samples(name, **more):
        program.run_successfully(["evaluate", *program.options({
            "model": folder / "model", "vector": folder / "run.h5", "test": folder / "model" / "pairs.csv",
            "multipliers": "0,2", "random_control": "off", "system_prompt": "", "dtype": "fp32", "device": "cpu",
            "out": tmp_path / name, **more})])
        table = load_evaluation(tmp_path / name).samples.query("direction == 'vector'")
        return [table[table["multiplier"] == at][["chosen_logp", "rejected_logp"]].to_numpy() for at in (0, 2)]
    off, on = samples("free.h5")
    moves = abs(on - off).max(axis=1) > 10 * TOLERANCE
    assert moves[is_open].any() and moves[~is_open].any()
    gated_off, gated_on = samples("gated.h5", gate=f"{tmp_path / 'gate.h5'}:{threshold}")
    numpy.testing.assert_allclose(gated_off, off, rtol=0, atol=TOLERANCE)
    numpy.testing.assert_allclose(gated_on, numpy.where(is_open[:, None], on, off), rtol=0, atol=TOLERANCE)


def test_a_gate_that_cannot_be_is_refused(folder, tmp_path):
    torch.save(torch.randn(65), tmp_path / "wide.pt")
    torch.save(torch.randn(64), tmp_path / "deep.pt")
    torch.save(torch.zeros(64), tmp_path / "zero.pt")
    for name, layer, word in (("wide", 1, "hidden size"), ("deep", 3, "layer 3"), ("zero", 1, "no direction")):
        gate = tmp_path / f"{name}.h5"
        program.run_successfully(["import", tmp_path / f"{name}.pt", "--layer", layer, "--out", gate])
        refused = program.run(["generate", *program.options({
            "model": folder / "model", "vector": folder / "run.h5", "prompt": "Why?", "gate": f"{gate}:0"})])
        assert refused.code == program.BAD_INPUT and "--gate" in refused.stderr and word in refused.stderr, refused
    weighted = program.run(["generate", "--vector", f"{folder / 'run.h5'}@0.5", *program.options({
        "model": folder / "model", "prompt": "Why?", "intervention": "null"})])
    assert weighted.code == program.BAD_INPUT and "weight" in weighted.stderr
