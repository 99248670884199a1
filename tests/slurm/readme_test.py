"""Every command of slurm/README.md, in its order, in a folder that looks like a checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import program
import run_files
from slurm_submission import SCRIPTS, SITE, settings_text, submitted_jobs

SOURCE = SCRIPTS.parent


def command_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", (SCRIPTS / "README.md").read_text(encoding="utf-8"),
                      re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The scripts, the program, a small model and pairs under the names that the page uses."""
    from tiny_models import TinyModel, write_model, write_pairs

    shutil.copytree(SCRIPTS, tmp_path / "slurm", ignore=shutil.ignore_patterns("site.env"))
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "bipo-dist").symlink_to(program.from_environment("BIPO_DIST"))
    (tmp_path / "experiments").symlink_to(SOURCE / "experiments")
    write_model(tmp_path / "models" / "SmolLM2-135M-Instruct", TinyModel(layers=30))
    write_pairs(tmp_path / "train.csv", 22)
    write_pairs(tmp_path / "test.csv", 9, seed=8)
    return tmp_path


def test_the_commands_work_in_their_order(cluster, checkout):
    blocks = command_blocks()
    assert len(blocks) >= 7
    jobs = []
    for block in blocks:
        finished = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=checkout, text=True, timeout=60,
                                  env={**cluster.environment, **program.MPI_ENVIRONMENT}, capture_output=True)
        assert finished.returncode == 0, f"{block}\n{finished.stdout}{finished.stderr}"
        if "site.example.env" in block:
            with open(checkout / "slurm" / "site.env", "a", encoding="utf-8") as site:
                site.write(settings_text(SITE))
        elif "submit.sh" in block and "--dry-run" not in block:
            jobs += submitted_jobs(finished.stdout)
            for job in jobs:
                [*records] = cluster.wait_for_end(job.id, timeout=120)
                assert {record["JobState"] for record in records} == {"COMPLETED"}, job.log_text(checkout)
    assert [job.name for job in jobs] == ["bipo-run", "bipo-layer20", "bipo-sweep", "bipo-sweep-analysis",
                                          "bipo-sweep-analysis", "bipo-run"]
    for out in (checkout / "run.h5", checkout / "layer20.h5", *(checkout / "sweep").glob("*layer*.h5")):
        assert run_files.read(out).attributes["status"] == "complete"
    assert len(list((checkout / "sweep").glob("*layer*.h5"))) == 10
    assert (checkout / "sweep" / "sweep.h5").exists()
    assert not (checkout / "other.h5").exists()
