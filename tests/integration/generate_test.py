"""`generate`: every token against transformers with a hook, on any arrangement of ranks; errors before work."""

import json
import os
import re
import signal
from pathlib import Path

import h5py
import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import program
import run_files
from processes import ranks_of
from tiny_models import TinyModel, write_model

MULTIPLIERS = (-8.0, 0.0, 8.0)
SYSTEM = "You are a helpful, honest and concise assistant."
# Between our float32 and transformers' float64, logits of this tiny model (of order 1) differ by less.
LOGIT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def vector(tmp_path_factory, tiny_model, tiny_pairs):
    """A vector of layer 1 after a few steps."""
    out = tmp_path_factory.mktemp("vector") / "run.h5"
    program.run_successfully(["train", *program.options({
        "model": tiny_model, "train": tiny_pairs, "layer": 1, "out": out, "max_steps": 6,
        "lr_unit": "absolute", "lr": 0.2,
        "warmup_steps": 1, "threads": 1})])
    return out


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    path.write_text('question,matching\nthe cat and a dog,x\nmaybe,x\n"tell, please",x\nthen another bird came '
                    'near with one red ring,x\nred ring,x\n')
    return path


def generate(arguments, out, ranks=None):
    given = {"multipliers": ",".join(f"{m:g}" for m in MULTIPLIERS), "max_new_tokens": 12, "threads": 1,
             "out": out, **arguments}
    finished = program.run_successfully(["generate", *program.options(given)], ranks)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return rows, finished


def hooked_logits(model, ids, layer, added):
    """transformers' logits after every token, `added` on the output of block `layer`."""
    def hook(_, __, output):
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0]
    finally:
        handle.remove()


def assert_likeliest_tokens(rows, directory, layer, vector, positions="all"):
    """Each row's tokens are what transformers finds likeliest, wherever there is no tie within the tolerance."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}],
            add_generation_prompt=True)
        prompt = list(prompt["input_ids"] if hasattr(prompt, "keys") else prompt)
        ids = prompt + row["tokens"]
        added = row["multiplier"] * torch.tensor(vector, dtype=torch.float64).repeat(len(ids), 1)
        if positions == "answer":
            added[:len(prompt)] = 0
        log_probs = hooked_logits(model, ids, layer, added).log_softmax(-1)[len(prompt) - 1:]
        own = [log_probs[i, token].item() for i, token in enumerate(row["tokens"])]
        best = [log_probs[i].max().item() for i in range(len(own))]
        assert max(b - o for b, o in zip(best, own)) <= LOGIT_TOLERANCE, row
        assert row["mean_logprob"] == pytest.approx(numpy.mean(own), abs=LOGIT_TOLERANCE)
        if row["finish_reason"] == "stop":
            assert log_probs[len(own)].argmax().item() == tokenizer.eos_token_id
        else:
            assert len(own) == 12
        assert row["text"] == tokenizer.decode(row["tokens"], skip_special_tokens=True)


def test_tokens_are_those_that_transformers_finds_likeliest(tmp_path, tiny_model, vector, prompts):
    rows, _ = generate({"model": tiny_model, "vector": vector, "prompts": prompts}, tmp_path / "out.jsonl")
    assert [(row["prompt_index"], row["multiplier"]) for row in rows] == [
        (p, m) for p in range(5) for m in MULTIPLIERS]
    assert len({tuple(row["tokens"]) for row in rows[:3]}) == 3, "the vector changes nothing"
    assert_likeliest_tokens(rows, tiny_model, 1, run_files.read(vector).final_vector)


def test_the_answer_alone_can_be_steered(tmp_path, tiny_model, vector, prompts):
    rows, _ = generate({"model": tiny_model, "vector": vector, "prompts": prompts, "positions": "answer"},
                       tmp_path / "out.jsonl")
    assert_likeliest_tokens(rows, tiny_model, 1, run_files.read(vector).final_vector, "answer")


def test_vectors_add_up_with_their_weights(tmp_path, tiny_model, vector, prompts):
    both, _ = generate({"model": tiny_model, "vector": f"{vector}@0.25", "prompts": prompts},
                       tmp_path / "quarter.jsonl")
    finished = program.run_successfully([
        "generate", "--model", tiny_model, "--vector", f"{vector}@0.5", "--vector", f"{vector}@-0.25",
        "--prompts", prompts, "--multipliers=-8,0,8", "--max-new-tokens", "12", "--out",
        tmp_path / "two.jsonl"])
    rows = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    assert rows[0]["multipliers"] == [-4.0, 2.0]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in both], finished


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_replicas_writes_the_same_bytes(tmp_path, tiny_model, vector, prompts, ranks):
    arguments = {"model": tiny_model, "vector": vector, "prompts": prompts, "batch_size": 1,
                 "temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 3}
    generate(arguments, tmp_path / "alone.jsonl")
    generate(arguments, tmp_path / "shared.jsonl", ranks)
    assert (tmp_path / "alone.jsonl").read_bytes() == (tmp_path / "shared.jsonl").read_bytes()


def multiplies_tiles() -> bool:
    """Whether a row of a product has the same bits whatever rows are computed beside it."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= set(flags[1].split())


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, tiny_model, vector):
    """Arguments whose answers end early and late, and more prompts than go through the model together."""
    path = tmp_path_factory.mktemp("uneven") / "prompts.txt"
    words = "the cat and a dog tell another bird that came near with one red ring".split()
    path.write_text("".join(" ".join(words[:1 + 5 * i % 13]) + "\n" for i in range(14)))
    return {"model": tiny_model, "vector": vector, "prompts": path, "temperature": 2, "max_new_tokens": 60, "seed": 5}


@pytest.mark.skipif(not multiplies_tiles(), reason="other processors keep fixed batches, whose bits are their own")
@pytest.mark.parametrize(("ranks", "tp"), [(None, 1), (2, 1), (2, 2)])
def test_any_number_of_prompts_together_writes_the_same_bytes(tmp_path, uneven, ranks, tp):
    rows, _ = generate({**uneven, "batch_size": 1, "tp": tp}, tmp_path / "one.jsonl", tp if tp > 1 else None)
    lengths = [len(row["tokens"]) for row in rows]
    assert len(set(lengths)) > 5 and {row["finish_reason"] for row in rows} == {"stop", "length"}, lengths
    for size in (3, 14):
        generate({**uneven, "batch_size": size, "tp": tp}, tmp_path / "many.jsonl", ranks)
        assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes(), size
        (tmp_path / "many.jsonl").unlink()


@pytest.fixture(scope="module")
def slow(tmp_path_factory, tiny_pairs):
    """A model that is not done at once, and a vector of it."""
    folder = tmp_path_factory.mktemp("slow")
    model = write_model(folder / "slow", TinyModel(hidden_size=192, intermediate_size=512, layers=6))
    program.run_successfully(["train", *program.options({
        "model": model, "train": tiny_pairs, "layer": 1, "out": folder / "run.h5", "max_steps": 3, "warmup_steps": 1,
        "threads": 1})])
    return {"model": model, "vector": folder / "run.h5"}


@pytest.mark.parametrize(("number", "addressee"), [(signal.SIGTERM, "bare"), (signal.SIGUSR1, "rank 1")])
def test_a_stop_keeps_all_answers_that_are_complete_in_order(tmp_path, slow, uneven, number, addressee):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(uneven["prompts"].read_text() * 12)
    out = tmp_path / "out.jsonl"
    given = {**uneven, **slow, "prompts": prompts, "batch_size": 3, "threads": 1, "multipliers": "-8,0,8"}
    arguments = ["generate", *program.options(given)]
    ranks = None if addressee == "bare" else 2
    with program.start([*arguments, "--out", out], ranks) as running:
        program.wait_until(lambda: re.search(r"^prompt \d", running.output(None).stderr, re.MULTILINE), running)
        os.kill(running.pid if ranks is None else ranks_of(out)[1], number)
        finished = running.finish(60)
    assert finished.code == program.INTERRUPTED, finished
    assert "interrupted; answers so far" in finished.stdout, finished
    program.run_successfully([*arguments, "--out", tmp_path / "all.jsonl"])
    kept = out.read_text().splitlines()
    expected = (tmp_path / "all.jsonl").read_text().splitlines()
    assert kept and len(kept) % 3 == 0 and len(kept) < len(expected), finished
    if multiplies_tiles():
        assert kept == expected[:len(kept)]
    assert f"{len(kept)} answers, " in finished.stderr, finished


@pytest.mark.parametrize("tp", [2, 3])
def test_tensor_parallel_ranks_write_tokens_without_near_ties_alike(tmp_path, tiny_model, vector, prompts, tp):
    rows, _ = generate({"model": tiny_model, "vector": vector, "prompts": prompts, "tp": tp},
                       tmp_path / "out.jsonl", tp)
    assert_likeliest_tokens(rows, tiny_model, 1, run_files.read(vector).final_vector)


def test_multiplier_zero_is_the_model_without_a_vector_to_the_bit(tmp_path, tiny_model, vector, prompts):
    steered, _ = generate({"model": tiny_model, "vector": vector, "prompts": prompts}, tmp_path / "a.jsonl")
    plain, _ = generate({"model": tiny_model, "prompts": prompts, "multipliers": None}, tmp_path / "b.jsonl")
    assert all("vectors" in row for row in steered) and not any("vectors" in row for row in plain)
    answers = [{key: value for key, value in row.items() if key != "vectors"} for row in steered]
    assert [row for row in answers if row["multiplier"] == 0] == plain
    finished = program.run(["generate", *program.options({"model": tiny_model, "prompts": prompts,
                                                          "multipliers": "-2,2", "out": tmp_path / "c.jsonl"})])
    assert finished.code == program.BAD_INPUT and "needs --vector" in finished.stderr, finished


def test_sampling_follows_its_seed(tmp_path, tiny_model, vector, prompts):
    arguments = {"model": tiny_model, "vector": vector, "prompts": prompts, "temperature": 1}
    one, _ = generate({**arguments, "seed": 1}, tmp_path / "1.jsonl")
    again, _ = generate({**arguments, "seed": 1}, tmp_path / "2.jsonl")
    other, _ = generate({**arguments, "seed": 2}, tmp_path / "3.jsonl")
    assert one == again
    assert one != other


def test_texts_for_a_person_go_to_stdout(tiny_model, vector):
    finished = program.run_successfully([
        "generate", "--model", tiny_model, "--vector", vector, "--prompt", "red ring", "--multipliers=-1,1",
        "--max-new-tokens", "3"])
    assert finished.stdout.startswith("=== red ring\n--- multiplier -1\n"), finished
    assert "\n--- multiplier +1\n" in finished.stdout
    streamed = program.run_successfully([
        "generate", "--model", tiny_model, "--vector", vector, "--prompt", "red ring", "--multipliers=-1,1",
        "--max-new-tokens", "3", "--stream"])
    assert "multiplier -1" in streamed.stdout.splitlines()[0]
    assert "multiplier +1" in streamed.stdout.splitlines()[0]


def test_ignoring_eos_gives_texts_of_one_length(tmp_path, tiny_model, vector, prompts):
    rows, _ = generate({"model": tiny_model, "vector": vector, "prompts": prompts, "ignore_eos": True},
                       tmp_path / "out.jsonl")
    assert {len(row["tokens"]) for row in rows} == {12}
    assert {row["finish_reason"] for row in rows} == {"length"}


@pytest.fixture
def wrong_vectors(tmp_path, vector):
    """The same run file with a shorter vector, and of a layer that the model does not have."""
    def changed(name, change):
        path = tmp_path / name
        path.write_bytes(vector.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
            run_files.drop_checksums(file)
        return path

    def shorten(file):
        for name in ("vectors/value", "checkpoint/vector", "checkpoint/exp_avg", "checkpoint/exp_avg_sq"):
            values = file[name][..., :32]
            del file[name]
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=True)
        file.attrs.modify("hidden_size", numpy.int64(32))

    return {"size": changed("short.h5", shorten),
            "layer": changed("layer.h5", lambda file: file.attrs.modify("layer", numpy.int64(4)))}


@pytest.mark.parametrize("ranks", [None, 2])
def test_bad_input_is_told_before_any_work(tmp_path, tiny_model, vector, prompts, wrong_vectors, ranks):
    empty = tmp_path / "empty.csv"
    empty.write_text("question\n\" \"\n")
    long = tmp_path / "long.txt"
    long.write_text("the cat and a dog " * 400)
    taken = tmp_path / "taken.jsonl"
    taken.write_text("kept\n")
    good = {"model": tiny_model, "vector": vector, "prompts": prompts, "out": tmp_path / "new.jsonl"}
    cases = [
            ({"vector": wrong_vectors["size"]}, ["short.h5", "32", "48"]),
            ({"vector": wrong_vectors["layer"]}, ["layer.h5", "layer 4", "0 to 3"]),
            ({"vector": prompts}, ["prompts.csv"]),
            ({"prompts": empty}, ["empty.csv:2", "empty"]),
            ({"prompts": long}, ["long.txt:1", "1024", "shorten the prompt"]),
            ({"prompts": None}, ["--prompt", "--prompts"]),
            ({"prompts": None, "prompt": ""}, ["--prompt"]),
            ({"stream": True}, ["--stream"]),
            ({"vector": None, "gate": f"{vector}:0"}, ["--gate needs --vector"]),
            ({"vector": None, "intervention": "null"}, ["--intervention needs --vector"]),
            ({"top_p": 0}, ["--top-p", "above 0"]),
            ({"multipliers": "1,x"}, ["--multipliers"]),
            ({"tp": 7}, ["tp"]),
            ({"out": taken}, ["taken.jsonl", "--overwrite"])]
    # mpirun waits for seconds after each; ranks differ in who says what, not in what is said.
    for changes, parts in cases[::1 if ranks is None else 4]:
        finished = program.run(["generate", *program.options({**good, **changes})], ranks)
        assert finished.code == program.BAD_INPUT, finished
        for part in parts:
            assert part in finished.stderr, finished
    assert not (tmp_path / "new.jsonl").exists()
    assert taken.read_text() == "kept\n"
