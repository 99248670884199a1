"""What slurm/submit.sh refuses, and the sbatch lines it makes: all of it without a Slurm."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import program
from slurm_submission import SCRIPTS, Site


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path, {**os.environ, "PATH": f"{os.path.dirname(program.from_environment('BIPO_MPIEXEC'))}:"
                                                 f"{os.environ['PATH']}"})


@pytest.fixture
def sweep_job(job):
    return job.but(layer=None, layers="1,2", out=job.folder / "sweep")


def sweep_arguments(job) -> list[object]:
    return ["sweep", *job.arguments()[1:]]


def assert_refused(finished: program.Finished, *parts: object) -> None:
    assert finished.code == program.BAD_INPUT and finished.stdout == "", finished
    for part in parts:
        assert str(part) in finished.stderr, f"no {part}\n{finished}"


def lines_of(finished: program.Finished) -> list[list[str]]:
    """The words of the printed sbatch lines, without the two variables before `sbatch`."""
    assert finished.code == program.DONE, finished
    lines = [shlex.split(line) for line in finished.stdout.splitlines()]
    for words in lines:
        assert words[0] == f"BIPO_SLURM_DIR={SCRIPTS}" and words[1].startswith("BIPO_SITE=/"), words
        assert words[2] == "sbatch", words
    return [words[3:] for words in lines]


@pytest.mark.parametrize("changes, parts", [
    ({"BIPO_NODES": "two"}, ["BIPO_NODES='two'", "whole number"]),
    ({"BIPO_RANKS_PER_NODE": 0}, ["BIPO_RANKS_PER_NODE='0'", "less than 1"]),
    ({"BIPO_GPUS_PER_NODE": ""}, ["BIPO_GPUS_PER_NODE"]),
    ({"BIPO_MAX_RESTARTS": -1}, ["BIPO_MAX_RESTARTS='-1'"]),
    ({"BIPO_LAUNCHER": "mpiexec"}, ["BIPO_LAUNCHER='mpiexec'", "mpirun", "srun"]),
    ({"BIPO_MODULES": ["openmpi/4.1"]}, ["openmpi/4.1", "module"]),
    ({"BIPO_PROGRAM": "/no/such/bipo-dist"}, ["/no/such/bipo-dist", "build it"]),
    ({"BIPO_PROGRAM": "/bin/false"}, ["/bin/false", "does not start"]),
])
def test_a_wrong_site_is_refused(site, job, changes, parts):
    site.write(**changes)
    assert_refused(site.submit("--dry-run", *job.arguments()), *parts)


def test_a_missing_site_file_is_refused(site, job):
    (site.folder / "site.env").unlink()
    assert_refused(site.submit("--dry-run", *job.arguments()), site.folder / "site.env", "site.example.env", "--site")
    assert_refused(site.submit("--dry-run", "--site", "other.env", *job.arguments()), site.folder / "other.env")


def test_another_site_file_can_be_named(site, job):
    site.write(BIPO_ACCOUNT="mine")
    (site.folder / "site.env").rename(site.folder / "other.env")
    [line] = lines_of(site.submit("--site", "other.env", "--dry-run", *job.arguments()))
    assert "--account=mine" in line


@pytest.mark.parametrize("words, parts", [
    ([], ["no command", "--help"]),
    (["bench"], ["'bench'", "train, sweep or analyze"]),
    (["--arrays", "2", "sweep"], ["unknown option --arrays"]),
    (["--array", "0", "sweep"], ["--array 0"]),
    (["--array", "0-3", "sweep"], ["--array 0-3"]),
    (["--after", "yesterday", "train"], ["--after yesterday"]),
    (["--sbatch"], ["--sbatch needs a value"]),
])
def test_a_wrong_command_line_is_refused(site, words, parts):
    assert_refused(site.submit(*words), *parts)


def test_help_needs_nothing(site):
    (site.folder / "site.env").unlink()
    finished = site.submit("--help")
    assert finished.code == program.DONE and "--array" in finished.stdout and finished.stderr == "", finished


@pytest.mark.parametrize("changes, parts", [
    ({"model": None}, ["--model"]),
    ({"layer": None}, ["--layer"]),
    ({"train": None}, ["--train"]),
    ({"out": None}, ["--out"]),
    ({"model": "absent"}, ["--model absent", "config.json"]),
    ({"train": "absent.csv"}, ["absent.csv: no such data file", "nothing is submitted"]),
    ({"test": "absent.csv"}, ["absent.csv: no such data file", "nothing is submitted"]),
    ({"out": "absent/run.h5"}, ["--out absent/run.h5", "directory"]),
    ({"overwrite": True}, ["--overwrite", "begin anew"]),
    ({"dry_run": True}, ["train --dry-run", "trains nothing"]),
    ({"layer": 9}, ["--layer 9", "0 to 3", "nothing is submitted"]),
    ({"bata": 1}, ["--bata", "--beta", "nothing is submitted"]),
])
def test_a_run_that_cannot_start_is_refused(site, job, changes, parts):
    assert_refused(site.submit("--dry-run", *job.but(**changes).arguments()), *parts)


def test_an_existing_run_file_needs_resume(site, job):
    program.run_successfully(job.but(max_steps=1).arguments())
    earlier = job.out.read_bytes()
    job = job.but(max_steps=1)
    assert_refused(site.submit("--dry-run", *job.arguments()), job.out, "--resume")
    [line] = lines_of(site.submit("--dry-run", *job.arguments("--resume")))
    assert line.count("--resume") == 1 and job.out.read_bytes() == earlier
    assert_refused(site.submit("--dry-run", *job.but(beta=0.5).arguments("--resume")), "beta was 0.1, now 0.5")
    config = job.folder / "run.ini"
    config.write_text(f"# mine\n[train]\nout = {job.out} \nepochs=1\n")
    from_file = job.but(out=None, epochs=None, config=config)
    assert_refused(site.submit("--dry-run", *from_file.arguments()), job.out, "--resume")


@pytest.mark.parametrize("changes, parts", [
    ({"layers": "1,9"}, ["--layers", "9", "0 to 3"]),
    ({"train": "absent.csv"}, ["absent.csv"]),
    ({"sed": "1"}, ["--sed", "--seed"]),
    ({"out": None}, ["--out"]),
    ({"out": "absent/sweep"}, ["--out absent/sweep", "directory"]),
    ({"dry_run": True}, ["--dry-run"]),
])
def test_a_sweep_that_cannot_start_is_refused(site, sweep_job, changes, parts):
    assert_refused(site.submit("--dry-run", *sweep_arguments(sweep_job.but(**changes))), *parts)


def test_a_gguf_model_is_taken(site, job):
    """The real one of the tests' cache, because the tiny ones are made in another environment."""
    model = Path(program.from_environment("BIPO_TEST_CACHE")) / "models" / "smollm2-135m-instruct.gguf"
    finished = site.submit("--dry-run", *job.but(model=model).arguments())
    [line] = lines_of(finished)
    assert str(model) in line and "first training pair" in finished.stderr, finished


def test_the_ranks_and_the_device_of_the_job_need_not_be_here(site, job):
    [line] = lines_of(site.submit("--dry-run", *job.but(tp=2, dp=4, device="cuda").arguments()))
    assert line[-7:] == ["--tp", "2", "--dp", "4", "--device", "cuda", "--resume"]
    assert not job.out.exists()


def test_an_analysis_that_cannot_start_is_refused(site, sweep_job):
    sweep_job.out.mkdir()
    assert_refused(site.submit("--dry-run", "analyze", sweep_job.out), sweep_job.out, "plan.json")
    assert_refused(site.submit("--dry-run", "analyze"), "one sweep directory")
    site.write(BIPO_ANALYSIS_PYTHON="/bin/false")
    assert_refused(site.submit("--dry-run", *sweep_arguments(sweep_job)), "BIPO_ANALYSIS_PYTHON=/bin/false")


def test_without_slurm_nothing_is_submitted(site, job):
    commands = site.folder / "bin"
    commands.mkdir()
    # All commands but Slurm's: the program's check of the job starts Open MPI, which needs several.
    for folder in map(Path, site.environment["PATH"].split(":")):
        for command in folder.iterdir() if folder.is_dir() else ():
            if command.name != "sbatch" and not (commands / command.name).is_symlink():
                (commands / command.name).symlink_to(command)
    site.environment["PATH"] = str(commands)
    assert_refused(site.submit(*job.arguments()), "'sbatch'", "login node")
    assert len(lines_of(site.submit("--dry-run", *job.arguments()))) == 1, "a dry run shows it all the same"


def test_the_line_of_a_training_job(site, job):
    site.write(BIPO_PARTITION="gpu", BIPO_NODES=2, BIPO_RANKS_PER_NODE=4, BIPO_GPUS_PER_NODE=4, BIPO_SIGNAL_SECONDS=240,
               BIPO_SBATCH_OPTIONS=["--qos=long", "--comment=two words"])
    before = sorted(site.folder.iterdir())
    [line] = lines_of(site.submit("--after", 17, "--sbatch", "--time=9", "--dry-run",
                                  *job.arguments("--system-prompt", "Be kind; $HOME")))
    script = line.index(str(SCRIPTS / "train.sbatch"))
    options, arguments = line[:script], line[script + 1:]
    assert {"--partition=gpu", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--signal=B:USR1@240",
            "--qos=long", "--comment=two words", "--dependency=afterany:17",
            "--job-name=bipo-run", "--output=slurm-logs/bipo-run-%j.log"} <= set(options)
    assert not [option for option in options if "per-task" in option and "gpu" in option]
    assert [option for option in options if option.startswith("--time")][-1] == "--time=9", "sbatch takes the last"
    assert arguments == [*map(str, job.arguments("--system-prompt", "Be kind; $HOME")[1:]), "--resume"]
    assert sorted(site.folder.iterdir()) == before, "a dry run leaves nothing behind"


def test_the_lines_of_a_sweep(site, sweep_job):
    """The check is made with one rank, whatever the tp of the job."""
    site.write(BIPO_ANALYSIS_SBATCH_OPTIONS=["--partition=cpu"], BIPO_RANKS_PER_NODE=2)
    arguments = sweep_arguments(sweep_job.but(tp=2, device="cpu"))
    array, analysis = lines_of(site.submit("--array", 3, "--dry-run", *arguments))
    assert {"--array=0-2", "--output=slurm-logs/bipo-sweep-%A_%a.log"} <= set(array)
    assert array[array.index(str(SCRIPTS / "sweep.sbatch")) + 1:] == [str(word) for word in arguments[1:]]
    assert not [option for option in array if option.startswith("--gpus")], "a site without GPUs asks for none"
    assert {"--dependency=afterany:JOB", "--partition=cpu"} <= set(analysis)
    assert analysis[-2:] == [str(SCRIPTS / "analyze.sbatch"), str(sweep_job.out)]
    [only] = lines_of(site.submit("--no-analysis", "--dry-run", *arguments))
    assert "--array=0-0" in only


def test_modules_are_loaded_before_the_program_is_tried(site, job):
    """`module` is a function of the login shell, which bash hands down to its scripts."""
    site.write(BIPO_MODULES=["openmpi/4.1", "cuda"])
    site.environment["BASH_FUNC_module%%"] = '() { echo "module called with: $*" >&2; }'
    finished = site.submit("--dry-run", *job.arguments())
    assert len(lines_of(finished)) == 1 and "module called with: load openmpi/4.1 cuda\n" in finished.stderr, finished


def test_what_the_example_says_holds_where_the_site_is_silent(site, job):
    site.settings = {"BIPO_PROGRAM": site.settings["BIPO_PROGRAM"], "BIPO_GPUS_PER_NODE": 0}
    site.write()
    example = dict(re.findall(r"^(BIPO_\w+)=([^ #\n]*)", (SCRIPTS / "site.example.env").read_text(), re.MULTILINE))
    [line] = lines_of(site.submit("--dry-run", *job.arguments()))
    assert {f"--time={example['BIPO_TIME_LIMIT']}", f"--nodes={example['BIPO_NODES']}",
            f"--signal=B:USR1@{example['BIPO_SIGNAL_SECONDS']}"} <= set(line)


def test_a_job_script_by_itself_says_what_to_do(site):
    for name in ("train.sbatch", "sweep.sbatch", "analyze.sbatch"):
        finished = subprocess.run(["bash", SCRIPTS / name], text=True, capture_output=True, timeout=30)
        assert finished.returncode != 0 and "slurm/submit.sh" in finished.stderr, finished.stderr


def test_the_scripts_are_shellcheck_clean():
    scripts = sorted(path for path in SCRIPTS.iterdir() if path.suffix != ".md" and path.name != "site.env")
    assert len(scripts) >= 6
    checked = subprocess.run(["shellcheck", "--external-sources", *scripts], cwd=SCRIPTS.parent, text=True,
                             capture_output=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
