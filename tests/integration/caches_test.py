"""Kept activations and the weights they were computed from: whatever happens to either, the vector is the right one
or the run says what is wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import h5py
import pytest

import program
import run_files
from processes import ranks_of
from selection import seldom
from tiny_models import TinyModel, write_model, write_pairs

PASS = "prefix and reference"  # what a run says while it computes what is not kept


@pytest.fixture
def cached(job):
    return job.but(cache_dir=job.folder / "cache", epochs=1, micro_batch=4)


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed") / "run.h5"


@pytest.fixture
def expected(cached, undisturbed_run):
    """What the job trains without any cache."""
    if not undisturbed_run.exists():
        program.run_successfully(cached.but(cache_dir=None, out=undisturbed_run).arguments())
    return run_files.read(undisturbed_run)


def activations(job) -> list[Path]:
    return sorted(Path(job.settings["cache_dir"]).glob("*.activations"))


def everything(job) -> list[str]:
    return sorted(path.name for path in Path(job.settings["cache_dir"]).iterdir())


def train(job, name: str, ranks: int | None = None) -> program.Finished:
    return program.run_successfully(job.writing(name).arguments("--overwrite"), ranks)


def assert_same(job, name: str, expected) -> None:
    run_files.assert_identical(run_files.read(job.folder / name), expected)


def flip_bit(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << place % 8]))


def overwrite(path: Path, place: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data[:path.stat().st_size - place])


def damages(size: int, chance: random.Random):
    """Names and functions of the path, over all parts of a file: rows, log-probabilities, checksums, seal.

    BIPO_LONG_FORM makes hundreds more at random places.
    """
    more = 100 if os.environ.get("BIPO_LONG_FORM") else 1
    for place in (0, size // 2, size - 1, size - 9, size - 40, size - 64, size - 72, size - 200):
        yield f"bit at {place}", lambda path, place=place: flip_bit(path, place)
    for _ in range(3 * more):
        place = chance.randrange(size)
        yield f"bit at {place}", lambda path, place=place: flip_bit(path, place)
    for _ in range(2 * more):
        place = chance.randrange(size)
        yield f"zeros at {place}", lambda path, place=place: overwrite(path, place, bytes(4096))
        noise = chance.randbytes(4096)
        yield f"noise at {place}", lambda path, place=place, noise=noise: overwrite(path, place, noise)
    yield "one byte less", lambda path: os.truncate(path, size - 1)
    yield "half", lambda path: os.truncate(path, size // 2)
    yield "nothing", lambda path: os.truncate(path, 0)
    yield "more", lambda path: os.truncate(path, size + 4096)


def test_a_file_damaged_anywhere_is_named_and_made_again(cached, expected):
    train(cached, "first.h5")
    whole = {path: path.read_bytes() for path in activations(cached)}
    assert len(whole) == 2
    chance = random.Random(5)
    for of_each in zip(*(damages(len(content), chance) for content in whole.values())):
        for path, (_, damage) in zip(whole, of_each):
            damage(path)
        finished = train(cached, "again.h5")
        assert all(f"warning: {path}" in finished.stderr for path in whole) and PASS in finished.stderr, finished
        assert_same(cached, "again.h5", expected)
        assert {path: path.read_bytes() for path in activations(cached)} == whole, of_each
    last = train(cached, "last.h5").stderr
    assert PASS not in last and "activations of the training and held-out pairs" in last
    assert everything(cached) == [path.name for path in whole]


@pytest.mark.parametrize("kind", ["directory", seldom("pipe"), seldom("link to nothing")])
def test_what_is_no_file_is_no_cache(cached, expected, kind):
    train(cached, "first.h5")
    path = activations(cached)[0]
    path.unlink()
    {"directory": path.mkdir, "pipe": lambda: os.mkfifo(path),
     "link to nothing": lambda: path.symlink_to("nowhere")}[kind]()
    finished = train(cached, "again.h5")
    assert PASS in finished.stderr, finished
    assert_same(cached, "again.h5", expected)


def test_ranks_agree_that_a_file_is_damaged(cached, expected):
    """Each rank verifies a part of the file; only one of them finds the damage."""
    train(cached, "first.h5", 2)
    for place in (0, activations(cached)[0].stat().st_size - 1):
        flip_bit(activations(cached)[0], place)
        finished = train(cached, "again.h5", 2)
        assert finished.stderr.count(str(activations(cached)[0])) == 1 and PASS in finished.stderr, finished
        assert_same(cached, "again.h5", expected)
    assert PASS not in train(cached, "last.h5", 2).stderr
    assert_same(cached, "last.h5", expected)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


@pytest.mark.parametrize("harm, ranks",
                         [(lambda path: os.truncate(path, 0), 2), (zeros, 2), (zeros, None), (replace, None),
                          (Path.unlink, 2)], ids=["truncated", "overwritten", "overwritten-1", "replaced", "removed"])
def test_a_file_harmed_under_a_running_job_does_no_harm(cached, harm, ranks):
    long = cached.but(epochs=20, save_every=0, eval_every=0)
    train(long.but(cache_dir=None), "undisturbed.h5")
    train(cached, "first.h5")
    with program.start(long.arguments(), ranks) as running:
        program.wait_until(lambda: run_files.steps_saved(long.out) > 3, running)
        for path in activations(long):
            harm(path)
        finished = running.finish(60)
    assert finished.code == program.DONE and PASS not in finished.stderr, finished
    run_files.assert_identical(run_files.read(long.out), run_files.read(long.folder / "undisturbed.h5"))


def test_two_jobs_on_one_cold_directory(cached, expected):
    for attempt in range(2):
        for path in activations(cached):
            path.unlink()
        jobs = [cached.writing(f"one-{attempt}.h5"), cached.writing(f"two-{attempt}.h5")]
        with program.start(jobs[0].arguments(), 2) as one, program.start(jobs[1].arguments()) as two:
            assert one.finish(60).code == two.finish(60).code == program.DONE
        for job in jobs:
            run_files.assert_identical(run_files.read(job.out), expected)
        assert len(everything(cached)) == 2, everything(cached)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in activations(cached))


@pytest.fixture
def big_job(job, tmp_path):
    """Its cache takes a while to write."""
    pairs = write_pairs(tmp_path / "many.csv", 1000)
    model = write_model(tmp_path / "wide", TinyModel(hidden_size=192, intermediate_size=192, layers=2))
    return job.but(model=model, train=pairs, test=None, cache_dir=tmp_path / "cache", layer=0, max_steps=1)


def test_the_next_run_removes_what_a_killed_one_left(big_job):
    cache = Path(big_job.settings["cache_dir"])
    cache.mkdir()
    with program.start(big_job.arguments()) as running:
        def halted_while_writing():
            for _ in range(2000):
                if run_files.temporary_files(cache):
                    running.send(signal.SIGSTOP)
                    return bool(run_files.temporary_files(cache))
            return False
        program.wait_until(halted_while_writing, running)
        [left] = run_files.temporary_files(cache)
        # The maker lives, so that its file is nobody else's.
        train(big_job, "meanwhile.h5")
        assert left in everything(big_job)
        running.send(signal.SIGKILL)
        running.process.wait()
    assert left in everything(big_job)
    of_other_host = cache / (left.replace(os.uname().nodename, "elsewhere.example"))
    of_other_host.write_bytes(b"")
    old = cache / (left.replace(os.uname().nodename, "long-ago.example"))
    old.write_bytes(b"")
    os.utime(old, (1, 1))
    train(big_job, "next.h5")
    assert run_files.temporary_files(cache) == [of_other_host.name]


def test_a_signal_while_a_file_is_written_leaves_the_whole_ones(big_job):
    cache = Path(big_job.settings["cache_dir"])
    cache.mkdir()
    with program.start(big_job.arguments()) as running:
        program.wait_until(lambda: any(run_files.temporary_files(cache) for _ in range(2000)), running)
        running.send(signal.SIGTERM)
        finished = running.finish(10)
    assert finished.code == program.INTERRUPTED, finished
    assert run_files.temporary_files(cache) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for neither of the caches."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "none", place], check=False,
                             capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("takes the right to mount")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("ranks", [seldom(None), 2])
def test_a_full_disk_costs_the_cache_and_not_the_run(cached, expected, small_disk, ranks):
    finished = train(cached.but(cache_dir=small_disk), "full.h5", ranks)
    assert finished.stderr.count("warning: --cache-dir") == 1 and "No space left" in finished.stderr, finished
    assert_same(cached, "full.h5", expected)
    assert list(small_disk.iterdir()) == []


def test_a_read_only_directory_serves_for_reading(cached, expected, small_disk):
    train(cached, "first.h5")
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    for path in activations(cached):
        shutil.copy(path, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    read = train(cached.but(cache_dir=small_disk), "read.h5")
    assert PASS not in read.stderr and "warning: --cache-dir" not in read.stderr, read
    other = train(cached.but(cache_dir=small_disk, layer=0), "other.h5")
    assert other.stderr.count("warning: --cache-dir") == 1 and "Read-only" in other.stderr, other
    assert_same(cached, "read.h5", expected)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to make files of another user")
def test_files_that_a_sticky_directory_protects_cost_the_cache_and_not_the_run(cached, expected):
    """Another user's file of the same key, damaged: it can be neither removed nor replaced."""
    train(cached, "first.h5")
    cache = Path(cached.settings["cache_dir"])
    for path in activations(cached):
        flip_bit(path, 0)
        os.chown(path, 12345, 12345)
        path.chmod(0o644)
    os.chown(cache, 12345, 12345)
    cache.chmod(0o1777)
    arguments = cached.but(cache_shared=True).writing("shared.h5").arguments()
    finished = subprocess.run(["setpriv", "--bounding-set=-fowner", program.from_environment("BIPO_DIST"),
                               *map(str, arguments)], check=False, capture_output=True, text=True, timeout=120,
                              env={**os.environ, **program.MPI_ENVIRONMENT})
    assert finished.returncode == program.DONE, finished.stderr
    assert finished.stderr.count("warning: --cache-dir") == 1 and "not permitted" in finished.stderr, finished.stderr
    assert_same(cached, "shared.h5", expected)
    assert len(everything(cached)) == 2, everything(cached)


@pytest.fixture
def own_model(job, tmp_path):
    """A model whose tensors are longer than what is sampled of them."""
    model = write_model(tmp_path / "own", TinyModel(hidden_size=64, intermediate_size=128))
    return job.but(model=model)


def weights_of(job) -> Path:
    return Path(job.settings["model"]) / "model.safetensors"


def change_inside(path: Path, part: str) -> None:
    """Changes numbers in the middle of one tensor, with size and time of the last change as they were."""
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:8 + header])
    [name] = [name for name in tensors if part in name]
    begin, end = tensors[name]["data_offsets"]
    assert end - begin > 4096
    middle = 8 + header + begin + (end - begin) // 8 * 4  # a number's first byte
    before = path.stat()
    overwrite(path, middle, content[middle + 64:middle + 128])
    assert path.read_bytes() != content
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_hashes_of_large_weights_are_remembered(job, tmp_path):
    model = write_model(tmp_path / "large", TinyModel(hidden_size=576, intermediate_size=4096, layers=3))
    cached = job.but(model=model, cache_dir=tmp_path / "cache", epochs=1, eval_every=0)
    assert weights_of(cached).stat().st_size > 64 << 20
    time.sleep(2.5)  # what changed just now is not remembered

    def memory():
        [path] = Path(cached.settings["cache_dir"]).glob("*.filehash")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return path.stat().st_ino, path.read_bytes()

    train(cached, "first.h5")
    first = memory()
    assert PASS not in train(cached, "second.h5").stderr and memory() == first, "it was used"
    # Another hash, without the checksum that belongs to it, counts for nothing.
    [path] = Path(cached.settings["cache_dir"]).glob("*.filehash")
    flip_bit(path, len(first[1]) - 20)
    assert PASS not in train(cached, "third.h5").stderr and memory()[1] == first[1], "hashed again"
    before = weights_of(cached).stat()
    change_inside(weights_of(cached), "layers.1.mlp.up_proj")
    assert weights_of(cached).stat().st_mtime_ns == before.st_mtime_ns
    assert PASS in train(cached, "changed.h5").stderr


@pytest.mark.parametrize("part", [seldom("layers.0.mlp.up_proj"), "layers.3.self_attn.q_proj", seldom("embed_tokens")])
def test_changed_weights_are_another_key(own_model, part):
    cached = own_model.but(cache_dir=own_model.folder / "cache")
    train(cached, "before.h5")
    change_inside(weights_of(cached), part)
    changed = train(cached, "changed.h5")
    assert PASS in changed.stderr, changed
    train(cached.but(cache_dir=None), "fresh.h5")
    run_files.assert_identical(run_files.read(cached.folder / "changed.h5"),
                               run_files.read(cached.folder / "fresh.h5"))


def test_a_run_is_not_resumed_with_changed_weights(own_model):
    half = own_model.but(max_steps=1)
    program.run_successfully(half.arguments())
    with h5py.File(half.out, "r+") as file:
        file.attrs["status"] = "interrupted"
        run_files.drop_checksums(file)
    change_inside(weights_of(own_model), "layers.0.mlp.up_proj")
    refused = program.run(half.arguments("--resume"))
    assert refused.code == program.BAD_INPUT, refused
    assert "weights_hash was" in refused.stderr and "model_fingerprint was" not in refused.stderr, refused


def test_a_sweep_is_not_continued_with_changed_weights(own_model, tmp_path):
    out = tmp_path / "sweep"
    arguments = ["sweep", *program.options({**own_model.settings, "layer": None, "lr": None, "out": out,
                                            "layers": "1", "lr_unit": "absolute", "lrs": "0.05", "seeds": "1,2", "max_steps": 1})]
    program.run_successfully(arguments)
    change_inside(weights_of(own_model), "layers.0.mlp.up_proj")
    refused = program.run(arguments)
    assert refused.code == program.BAD_INPUT and "weights_hash was" in refused.stderr, refused


def test_weights_cut_short_under_a_job_are_named(own_model, tmp_path):
    """A mapped file's pages that are gone end the program by a signal, unless it hears that."""
    model = write_model(tmp_path / "larger", TinyModel(hidden_size=256, intermediate_size=4096, layers=8))
    job = own_model.but(model=model, train=write_pairs(tmp_path / "many.csv", 500), layer=6)
    for ranks in (None, 2):
        with program.start(job.writing(f"cut-{ranks}.h5").arguments(), ranks) as running:
            program.wait_until(lambda: f"{PASS}, block 1/" in running.output(None).stderr, running)
            content = weights_of(job).read_bytes()
            os.truncate(weights_of(job), 4096)
            finished = running.finish(60)
        weights_of(job).write_bytes(content)
        assert finished.code == program.FAILED, finished
        assert re.search(rf"^bipo-dist: .*{re.escape(str(weights_of(job)))}: became shorter", finished.stderr,
                         re.MULTILINE), finished
        assert not ranks_of(job.folder / f"cut-{ranks}.h5")
