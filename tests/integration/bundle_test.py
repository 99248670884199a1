"""The archive of launcher/bundle.sh on a machine that has nothing but a C library and a Python with torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy
import pytest

import program
import run_files

SOURCE = Path(__file__).parents[2]
BUILD = Path(program.from_environment("BIPO_BUILD_DIR"))
TORCH = Path(sysconfig.get_paths()["purelib"]) / "torch"
SYSTEM = re.compile(r"/(ld-linux-x86-64|libc|libm|libmvec|libdl|librt|libpthread|libutil|libresolv|libanl|libstdc\+\+|"
                    r"libgcc_s)\.so")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    subprocess.run([SOURCE / "launcher" / "bundle.sh", "cpu", folder], env={**os.environ, "BIPO_BUILD": str(BUILD)},
                   check=True, stdout=subprocess.DEVNULL)
    archive = folder / "bipo-dist-cpu.tar.gz"
    assert archive.stat().st_size < 60 << 20
    (folder / "home").mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", folder / "home"], check=True)
    return folder / "home" / "bipo-dist-cpu"


def run(bundle, command, **environment) -> subprocess.CompletedProcess:
    """With an environment that knows nothing of this machine."""
    clean = {"PATH": f"{bundle}/bin:/usr/bin:/bin", "HOME": str(bundle.parent), "BIPO_TORCH": str(TORCH), "LANG": "C.UTF-8"}
    return subprocess.run(command, env={**clean, **program.MPI_ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=120)


# Runs a command in the root $1, which shows the folders up to "--" at their own paths.
IN_ROOT = """
set -e
root=$1; shift
set -- /proc /sys /dev "$@"
while [[ $1 != -- ]]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done
shift
exec /usr/sbin/chroot "$root" "$@"
"""


@pytest.fixture
def other_release(tmp_path_factory):
    """The bare root of another release of Debian: neither Python nor any library of this machine."""
    codename = re.search(r"VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"))
    release = "bookworm" if codename and codename[1] == "trixie" else "trixie"
    root = Path(tempfile.mkdtemp(prefix="bipo-release-"))  # elsewhere than what it shows
    made = subprocess.run(["debootstrap", "--variant=minbase", release, root], capture_output=True, text=True,
                          timeout=900)
    assert made.returncode == 0, f"a root of Debian {release}, made as root: {made.stdout[-2000:]}{made.stderr}"
    yield root
    shutil.rmtree(root)


def test_it_loads_only_its_own_libraries_and_those_of_torch(bundle):
    listed = run(bundle, ["bipo-dist", "--version", "--verbose"], LD_DEBUG="libs")
    assert listed.returncode == 0 and listed.stdout.startswith("bipo-dist"), listed
    loaded = set(re.findall(r"calling init: (\S+)", listed.stderr))
    assert any(path.endswith("libtorch_cpu.so") for path in loaded)
    places = (str(bundle.resolve()), str(TORCH.parent.resolve()))
    foreign = [path for path in loaded if not os.path.realpath(path).startswith(places) and not SYSTEM.search(path)]
    assert foreign == []


def test_ranks_train_the_same_vector(bundle, job):
    job = job.but(micro_batch=2)
    program.run_successfully(job.arguments())
    ours = job.but(out=job.folder / "ours.h5")
    finished = run(bundle, ["mpirun", "-np", "2", "bipo-dist", *map(str, ours.arguments())])
    assert finished.returncode == 0, finished
    run_files.assert_identical(run_files.read(ours.out), run_files.read(job.out))
    page = job.folder / "ours.html"
    finished = run(bundle, ["bipo-dist", "report", str(ours.out), "--python", sys.executable, "--out", str(page)])
    assert finished.returncode == 0 and "Does it steer?" in page.read_text(encoding="utf-8"), finished


@pytest.mark.other_release
def test_it_trains_on_another_release(bundle, job, other_release, tmp_path_factory):
    assert not (other_release / "usr/bin/python3").exists()
    job = job.but(micro_batch=2)
    program.run_successfully(job.arguments())
    ours = job.but(out=job.folder / "ours.h5")
    shown = [str(path.resolve()) for path in (tmp_path_factory.getbasetemp(), TORCH.parent)]
    finished = run(bundle, ["unshare", "-m", "bash", "-c", IN_ROOT, "bash", str(other_release), *shown, "--",
                            "mpirun", "-np", "2", "bipo-dist", *map(str, ours.arguments())])
    assert finished.returncode == 0, finished
    # Its C library may round functions otherwise, which AdamW magnifies where a gradient is small.
    here, there = run_files.read(job.out).final_vector, run_files.read(ours.out).final_vector
    numpy.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5 * abs(here).max())


@pytest.mark.parametrize("environment, part", [
    ({"BIPO_TORCH": "", "BIPO_PYTHON": "/nowhere/python"}, "/nowhere/python has no torch"),
    ({"BIPO_TORCH": "/nowhere/torch"}, "holds no lib/libtorch_cpu.so"),
], ids=["no Python", "no torch"])
def test_what_is_missing_is_named(bundle, environment, part):
    finished = run(bundle, ["bipo-dist", "--version"], **environment)
    assert finished.returncode == 2 and part in finished.stderr, finished


def test_another_torch_is_refused(bundle, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cpu.so").touch()
    (tmp_path / "version.py").write_text("__version__ = '2.15.0+cpu'\n")
    finished = run(bundle, ["bipo-dist", "--version"], BIPO_TORCH=str(tmp_path))
    assert finished.returncode == 2 and "torch 2.15.0" in finished.stderr and "2.11.0" in finished.stderr, finished
