"""Whatever is read is a regular file of a sane size, or is refused at once; what is written follows no planted link."""

from __future__ import annotations

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


KINDS = {"pipe": put_pipe, "zeros": put_zeros, "socket": put_socket, "huge": put_huge, "directory": put_directory}


def commands(folder, model, vector, pairs, name):
    """The command that reads `name`, which lies in `folder`."""
    file = folder / name
    train = {"model": model, "train": pairs, "layer": 1, "out": folder / "out.h5", "threads": 1, "max_steps": 1}
    use = {"model": model, "vector": vector, "out": folder / "out.jsonl", "threads": 1}
    if name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja",
                "generation_config.json"):
        copy = folder / "model"
        shutil.copytree(model, copy)
        (copy / name).unlink(missing_ok=True)
        file.rename(copy / name)
        return ["train", *program.options({**train, "model": copy})]
    return {
        "train.csv": ["train", *program.options({**train, "train": file})],
        "train.jsonl": ["train", *program.options({**train, "train": file})],
        "test.csv": ["train", *program.options({**train, "test": file})],
        "run.ini": ["train", *program.options({**train, "config": file})],
        "template.jinja": ["train", *program.options({**train, "chat_template": file})],
        "model.gguf": ["train", *program.options({**train, "model": file})],
        "resumed.h5": ["train", *program.options({**train, "out": file, "resume": True})],
        "vector.h5": ["generate", *program.options({**use, "vector": file, "prompt": "a"})],
        "inspected.h5": ["inspect", file],
        "vector.pt": ["import", file, *program.options({"layer": 1, "out": folder / "out.h5"})],
        "prompts.txt": ["generate", *program.options({**use, "prompts": file})],
        "questions.csv": ["evaluate", *program.options({**use, "choices_ab": file})],
        "reference.txt": ["evaluate", *program.options({**use, "reference_text": file})],
        "measured.json": ["plan", *program.options({"model": model, "layer": 1, "measured": file})],
    }[name]


READ = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja",
        "train.csv", "train.jsonl", "test.csv", "run.ini", "template.jinja", "model.gguf", "resumed.h5", "vector.h5",
        "inspected.h5", "vector.pt", "prompts.txt", "questions.csv", "reference.txt", "measured.json"]


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_regular_file_is_read(tmp_path, tiny_model, vector, tiny_pairs, name, kind):
    KINDS[kind](tmp_path / name)
    finished = program.run(commands(tmp_path, tiny_model, vector, tiny_pairs, name), timeout=AT_ONCE)
    assert finished.code == program.BAD_INPUT, finished
    assert name in finished.stderr, finished


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
