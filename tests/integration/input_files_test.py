"""Whatever is read is a regular file of a sane size, or is refused at once; what is written follows no planted link.

The default run meets every input with two kinds of what is no file; BIPO_LONG_FORM (label long) with all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket

import pytest

import program
import run_files

AT_ONCE = 20  # seconds, of which a loaded machine needs most to start the program


@pytest.fixture(scope="module")
def vector(tmp_path_factory, tiny_model, tiny_pairs):
    out = tmp_path_factory.mktemp("vector") / "run.h5"
    program.run_successfully(["train", *program.options({
        "model": tiny_model, "train": tiny_pairs, "layer": 1, "out": out, "max_steps": 2, "threads": 1})])
    program.run_successfully(["evaluate", *program.options({
        "model": tiny_model, "vector": out, "test": tiny_pairs, "multipliers": "0,1", "threads": 1,
        "out": out.with_name("evaluation.h5")})])
    return out


def put_pipe(path):
    os.mkfifo(path)


def put_zeros(path):
    path.symlink_to("/dev/zero")


def put_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket must be short
        server.bind(path.name)
        os.chdir(here)


def put_huge(path):
    """A sparse file of a petabyte, or of what the file system allows."""
    with open(path, "wb") as file:
        for power in (50, 46, 43):
            try:
                file.truncate(1 << power)
                return
            except OSError:
                continue
    pytest.skip("the file system takes no huge file")


def put_directory(path):
    path.mkdir()


def put_dangling(path):
    path.symlink_to(path.parent / "nowhere")


KINDS = {"pipe": put_pipe, "zeros": put_zeros, "socket": put_socket, "huge": put_huge, "directory": put_directory,
         "dangling": put_dangling}


OF_A_MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
              "model.safetensors.index.json", "chat_template.jinja", "generation_config.json")


def of_a_model(folder, model, name, train):
    copy = folder / "model"
    shutil.copytree(model, copy)
    (copy / name).unlink(missing_ok=True)
    if name == "model.safetensors.index.json":
        (copy / "model.safetensors").unlink()
    (folder / name).rename(copy / name)
    if name == "generation_config.json":  # generate reads it, for the tokens that end an answer
        return ["generate", *program.options({"model": copy, "vector": train["vector"], "prompt": "a", "threads": 1})]
    return ["train", *program.options({**train, "vector": None, "model": copy})]


def of_an_adapter(folder, name, train):
    adapter = folder / "adapter"
    adapter.mkdir()
    (folder / name).rename(adapter / name)
    if name != "adapter_config.json":
        (adapter / "adapter_config.json").write_text(json.dumps({
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}))
    return ["train", *program.options({**train, "adapter": adapter})]


def of_a_sweep(folder, name, train):
    sweep = folder / "sweep"
    sweep.mkdir()
    (folder / name).rename(sweep / name)
    settings = {**train, "layer": None, "layers": 1, "out": sweep}
    return {"plan.json": ["collect", sweep, *program.options({"out": folder / "all.h5"})]}.get(
        name, ["sweep", *program.options(settings)])


def commands(folder, model, vector, pairs, name):
    """The command that reads `name`, which lies in `folder`."""
    file = folder / name
    train = {"model": model, "train": pairs, "layer": 1, "out": folder / "out.h5", "threads": 1, "max_steps": 1}
    if name in OF_A_MODEL:
        return of_a_model(folder, model, name, {**train, "vector": vector})
    if name in ("adapter_config.json", "adapter_model.safetensors"):
        return of_an_adapter(folder, name, train)
    if name == "plan.json":
        return of_a_sweep(folder, name, train)
    use = {"model": model, "vector": vector, "out": folder / "out.jsonl", "threads": 1}
    judged = {"generations": folder / "answers.jsonl", "rubric": folder / "rubric.txt", "behaviour": "kindness",
              "judge_export": folder / "requests.jsonl"}
    option = {"run.ini": "config", "template.jinja": "chat_template", "model.gguf": "model", "adapter.gguf": "adapter"}
    if name in option:
        return ["train", *program.options({**train, option[name]: file})]
    if name.startswith("train."):
        return ["train", *program.options({**train, "train": file})]
    if name.startswith("vector.") and name != "vector.h5":
        return ["import", file, *program.options({"layer": 1, "out": folder / "out.h5"})]
    if name in ("answers.jsonl", "rubric.txt"):
        if name == "rubric.txt":
            (folder / "answers.jsonl").write_text(json.dumps({
                "prompt_index": 0, "prompt": "a", "multiplier": 1.0, "text": "b", "tokens": [1],
                "mean_logprob": -1.0, "finish_reason": "stop"}) + "\n")
        return ["evaluate", *program.options(judged)]
    measured = {"ab.csv": "choices_ab", "mc.jsonl": "choices_mc", "mmlu.csv": "mmlu", "reference.txt": "reference_text",
                "neutral.txt": "neutral_prompts", "generations.jsonl": "generations", "test.csv": "test", "caa.h5": "caa"}
    if name in measured:
        wanted = {"test": pairs} if name == "caa.h5" else {}
        return ["evaluate", *program.options({**use, **wanted, "out": folder / "out.h5", measured[name]: file})]
    return {
        "held_out.csv": ["train", *program.options({**train, "test": file})],
        "resumed.h5": ["train", *program.options({**train, "out": file, "resume": True})],
        "vector.h5": ["generate", *program.options({**use, "vector": file, "prompt": "a"})],
        "inspected.h5": ["inspect", file],
        "exported.h5": ["export", file, *program.options({"format": "pt", "out": folder / "out.pt"})],
        "norm.h5": ["extract", *program.options({**train, "max_steps": None, "match_norm": file})],
        "shown.csv": ["data", file, *program.options({"model": model})],
        "prompts.txt": ["generate", *program.options({**use, "prompts": file})],
        "measured.json": ["plan", *program.options({"model": model, "layer": 1, "measured": file})],
        "shape.json": ["bench", *program.options({"shape": file, "layer": 1, "threads": 1})],
        "judged.h5": ["evaluate", *program.options({"judge_import": folder / "results.jsonl", "out": file})],
        "results.jsonl": ["evaluate", *program.options({"judge_import": file, "out": vector.with_name("evaluation.h5")})],
    }[name]


READ = [*OF_A_MODEL, "adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "plan.json", "train.csv",
        "train.tsv", "train.json", "train.jsonl", "train.parquet", "train.arrow", "held_out.csv", "run.ini",
        "template.jinja", "model.gguf", "resumed.h5", "vector.h5", "inspected.h5", "exported.h5", "norm.h5", "shown.csv",
        "vector.pt", "vector.safetensors", "vector.gguf", "prompts.txt", "test.csv", "ab.csv", "mc.jsonl", "mmlu.csv",
        "reference.txt", "neutral.txt", "caa.h5", "generations.jsonl", "answers.jsonl", "rubric.txt", "results.jsonl",
        "judged.h5", "measured.json", "shape.json"]
# What a missing file means there: nothing is missed, or a new one is to be written.
MAY_BE_MISSING = {"tokenizer_config.json", "chat_template.jinja", "generation_config.json",
                  "model.safetensors.index.json", "resumed.h5"}


def table() -> list[tuple[str, str]]:
    kinds = list(KINDS)
    if os.environ.get("BIPO_LONG_FORM"):
        rows = [(name, kind) for name in READ for kind in kinds]
    else:
        rows = [(name, kinds[(place + turn) % len(kinds)]) for place, name in enumerate(READ) for turn in (0, 3)]
    return [(name, kind) for name, kind in rows if kind != "dangling" or name not in MAY_BE_MISSING]


@pytest.mark.parametrize("name, kind", table())
def test_nothing_but_a_regular_file_is_read(tmp_path, tiny_model, vector, tiny_pairs, name, kind):
    KINDS[kind](tmp_path / name)
    finished = program.run(commands(tmp_path, tiny_model, vector, tiny_pairs, name), timeout=AT_ONCE)
    assert finished.code == program.BAD_INPUT, finished
    # An adapter without its two files is named as a whole.
    assert ("adapter" if name.startswith("adapter_") else name) in finished.stderr, finished


@pytest.fixture
def cached(job):
    return job.but(cache_dir=job.folder / "cache")


def activations(job):
    return sorted((job.folder / "cache").glob("*.activations"))


def test_links_at_guessed_names_of_temporary_files_are_not_followed(cached):
    """The names of earlier versions: key.host.pid.tmp, of which a planter of links can guess the pid."""
    program.run_successfully(cached.arguments())
    keys = [path.name for path in activations(cached)]
    for path in activations(cached):
        path.unlink()
    victim = cached.folder / "victim"
    victim.write_text("precious")
    host = os.uname().nodename
    last = int(open("/proc/sys/kernel/ns_last_pid").read()) if os.path.exists("/proc/sys/kernel/ns_last_pid") else os.getpid()
    for pid in range(last + 1, last + 400):
        for key in keys:
            (cached.folder / "cache" / f"{key}.{host}.{pid}.tmp").symlink_to(victim)
        (cached.folder / f".again.h5.{host}.{pid}.tmp").symlink_to(victim)
    program.run_successfully(cached.writing("again.h5").arguments())
    assert victim.read_text() == "precious"
    assert [path.name for path in activations(cached)] == keys and not any(map(os.path.islink, activations(cached)))
    run_files.assert_identical(run_files.read(cached.out), run_files.read(cached.folder / "again.h5"))


def test_temporary_names_are_different_each_time(cached, tmp_path):
    """What a killed process leaves carries a part that nobody can foresee, and the next run removes it."""
    first = cached.but(epochs=100000, save_every=0, eval_every=0)
    seen = set()
    with program.start(first.arguments()) as running:
        def several():
            seen.update(run_files.temporary_files(first.folder))
            return len(seen) >= 3
        program.wait_until(several, running)
    for name in seen:
        random = name.split(".")[-3]
        assert len(random) == 16 and set(random) <= set("0123456789abcdef"), name


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to make a file of another user")
def test_caches_of_other_users_are_refused_unless_asked_for(cached):
    program.run_successfully(cached.arguments())
    for theirs in activations(cached):
        os.chown(theirs, 12345, 12345)
    refused = program.run(cached.writing("refused.h5").arguments())
    assert refused.code == program.BAD_INPUT, refused
    assert ".activations" in refused.stderr and "--cache-shared" in refused.stderr, refused
    trusted = cached.but(cache_shared=True).writing("trusted.h5")
    finished = program.run_successfully(trusted.arguments())
    assert "prefix and reference" not in finished.stderr, "the files are used"
    run_files.assert_identical(run_files.read(cached.out), run_files.read(trusted.out))
