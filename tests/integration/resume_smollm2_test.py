"""Three SIGKILLs on the real model: the resumed run ends where an undisturbed one ends."""

import signal

import program
import run_files
from tiny_models import write_pairs


def test_three_kills(tmp_path):
    settings = {"model": program.smollm2_directory(), "train": write_pairs(tmp_path / "train.csv", 8),
                "layer": 24, "batch_size": 2, "micro_batch": 1, "max_steps": 12, "lr_unit": "absolute", "lr": 0.02,
                "warmup_steps": 2, "eval_every": 0, "save_every": 0, "threads": 2}

    def arguments(name, *extra):
        return ["train", *program.options({**settings, "out": tmp_path / name}), *extra]

    program.run_successfully(arguments("undisturbed.h5"), timeout=300)
    out = tmp_path / "killed.h5"
    for steps in (2, 5, 9):
        with program.start(arguments("killed.h5", "--resume")) as running:
            program.wait_until(lambda: run_files.steps_saved(out) >= steps, running, timeout=300)
            running.send(signal.SIGKILL)
            assert running.finish(10).code == -signal.SIGKILL
        run_files.assert_whole(out)
    program.run_successfully(arguments("killed.h5", "--resume"), timeout=300)
    run_files.assert_identical(run_files.read(out), run_files.read(tmp_path / "undisturbed.h5"))
    assert run_files.temporary_files(tmp_path) == []
