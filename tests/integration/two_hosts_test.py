"""The same work under one mpirun across two hosts writes the files that one host writes."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy
import pytest

import program
from two_hosts import HOSTS, NoNamespaces, TwoHosts

WHERE_AND_WHEN = {"hosts", "created_utc"}  # attributes that tell of the machine and the hour


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts | None]:
    """None where no namespaces can be made; the tests then let two commands meet on this host instead."""
    with contextlib.ExitStack() as stack:
        try:
            entered = stack.enter_context(TwoHosts())
        except NoNamespaces as reason:
            warnings.warn(f"no two hosts: {reason}")
            entered = None
        yield entered


def contents(path: Path) -> dict[str, object]:
    """Everything in a run file but wall times, hosts, dates and the file's own name."""
    found: dict[str, object] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = numpy.asarray(value).tolist()
        if isinstance(item, h5py.Dataset):
            array = item[()]
            columns = array.dtype.names if isinstance(array, numpy.ndarray) else None
            for column in columns or [None]:
                if column != "seconds":
                    found[f"{name}.{column}"] = numpy.asarray(array[column] if column else array).tobytes()

    with h5py.File(path) as file:
        add("/", file)
        file.visititems(lambda name, item: add(f"/{name}", item))
    config = json.loads(found.pop("/@config"))
    config.pop("out")
    found["config"] = config
    return {name: value for name, value in found.items() if name.removeprefix("/@") not in WHERE_AND_WHEN}


def assert_same_file(left: Path, right: Path) -> None:
    one, other = contents(left), contents(right)
    assert one.keys() == other.keys()
    # Checksums cover times too.
    differing = [name for name in one if one[name] != other[name] and not name.endswith("@checksum")]
    assert not differing, f"{left.name}: {differing} differ"
    assert len(one) > 30, "an almost empty file"


def hosts_of(path: Path) -> str:
    with h5py.File(path) as file:
        return file.attrs["hosts"]


def finish(running: program.Running) -> None:
    with running:
        finished = running.finish(120)
        assert finished.code == program.DONE, f"{finished}"


@pytest.fixture
def job(job):
    """By itself the cache's budget follows the memory that is free, and stands in the run file."""
    return job.but(cache_budget="64M")


@pytest.mark.parametrize("layout", [{"dp": 2}, {"tp": 2}], ids=["dp2", "tp2"])
def test_a_run_across_two_hosts(hosts, job, layout):
    fixed = job.but(**layout)
    program.run_successfully(fixed.writing("one.h5").arguments(), ranks=2)
    across = fixed.writing("across.h5")
    if hosts:
        finish(hosts.start(across.arguments()))
        assert all(host in hosts_of(across.out) for host in HOSTS)
    else:
        finish(program.Running([program.from_environment("BIPO_MPIEXEC"), "-n", "2", "--mca", "btl", "self,tcp",
                                program.from_environment("BIPO_DIST"), *map(str, across.arguments())]))
    assert_same_file(job.folder / "one.h5", across.out)


def test_a_sweep_across_two_hosts(hosts, job):
    """Two groups of one rank, each taking the next cell."""
    sweep = job.but(layer=None, layers="1,2", seeds="1,2", vectors_per_pass=1, dp=1, tp=1, out=job.folder / "one")
    across = sweep.writing("across")
    program.run_successfully(["sweep", *sweep.arguments()[1:]], ranks=2)
    arguments = ["sweep", *across.arguments()[1:]]
    if hosts:
        finish(hosts.start(arguments))
    else:
        with program.start(arguments, ranks=1) as first, program.start(arguments, ranks=1) as second:
            finish(first)
            finish(second)
    names = sorted(path.name for path in sweep.out.glob("*.h5"))
    assert len(names) == 4 and names == sorted(path.name for path in across.out.glob("*.h5"))
    for name in names:
        assert_same_file(sweep.out / name, across.out / name)
    if hosts:
        used = " ".join(hosts_of(across.out / name) for name in names)
        assert any(host in used for host in HOSTS)
