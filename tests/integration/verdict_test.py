"""Whether a run says that its vector has no effect: against figures that pandas and numpy make of its file."""

from __future__ import annotations

import re

import h5py
import numpy
import pandas
import pytest

import program
import run_files


def read_samples(path) -> pandas.DataFrame:
    with h5py.File(path) as file:
        return pandas.DataFrame(file["eval_samples"][:])


def read_verdict(path) -> str:
    return str(run_files.read(path).attributes["verdict"])


def margin_changes(path, beta=0.1) -> numpy.ndarray:
    samples = read_samples(path)
    preference = (samples["chosen_logp"] - samples["rejected_logp"]).to_numpy()
    table = samples.assign(value=preference).pivot(index="pair", columns="multiplier", values="value")
    return beta * (table[1.0] - table[-1.0]).to_numpy()


@pytest.fixture
def strong(job, tiny_pairs):
    """Evaluated on its own training pairs, which it has learned by heart."""
    return job.but(test=tiny_pairs, epochs=20, lr=0.3, sign="both", weight_decay=0)


def test_the_samples_are_those_of_the_last_evaluation(strong):
    program.run_successfully(strong.but(epochs=3).arguments())
    samples, evals = read_samples(strong.out), pandas.DataFrame(run_files.read(strong.out).evals)
    last = evals[evals["step"] == evals["step"].max()].set_index("multiplier")
    assert set(samples["step"]) == {18} and set(samples["epoch"]) == {2} and len(samples) == 3 * 22
    grouped = samples.groupby("multiplier")
    for name in ("chosen_logp", "rejected_logp"):
        pandas.testing.assert_series_equal(grouped[name].mean(), last[name], check_names=False, rtol=1e-12)
    right = samples.assign(right=samples["chosen_logp"] > samples["rejected_logp"]).groupby("multiplier")["right"].mean()
    pandas.testing.assert_series_equal(right, last["accuracy"], check_names=False)
    assert list(grouped["pair"].apply(list)) == [list(range(22))] * 3


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_vector_that_steers(strong, ranks):
    finished = program.run_successfully(strong.arguments(), ranks=ranks)
    verdict = read_verdict(strong.out)
    figures = re.fullmatch(r"steers: the vector's norm is (\S+) % of the residual stream's, the held-out margins at "
                           r"\+1v and -1v differ by (\S+) nats \(95 % interval (\S+) to (\S+), 22 pairs\)", verdict)
    assert figures, verdict
    share, mean, low, high = map(float, figures.groups())
    changes = margin_changes(strong.out)
    assert mean == pytest.approx(changes.mean(), rel=0.006)
    # The percentile bootstrap of a mean lies near its normal interval, which 22 pairs fill out roughly.
    half = 1.96 * changes.std(ddof=1) / numpy.sqrt(len(changes))
    assert low == pytest.approx(mean - half, abs=0.3 * half) and high == pytest.approx(mean + half, abs=0.3 * half)
    norm = float(re.search(r"median norm of the residual stream after block 1: (\S+)", finished.stderr)[1])
    assert share == pytest.approx(100 * numpy.linalg.norm(run_files.read(strong.out).final_vector) / norm, rel=0.006)
    assert "weak" not in finished.stdout
    assert f"verdict  {verdict}" in program.run_successfully(["inspect", strong.out]).stdout


def test_a_short_vector_ends_with_what_to_change(job):
    weak = job.but(lr=1e-7, warmup_steps=4)
    finished = program.run_successfully(weak.arguments())
    verdict = read_verdict(weak.out)
    assert finished.stdout.splitlines()[-1] == verdict
    for part in ("weak: the vector's norm is ", "below 0.5 %", "--lr (now 1e-07", "--lr-unit residual",
                 "more --epochs (now 2)", "a shorter --warmup (now 4 of 12 steps)"):
        assert part in verdict, verdict
    assert f"verdict  {verdict}" in program.run_successfully(["inspect", weak.out]).stdout
    again = program.run_successfully(weak.arguments("--resume"))
    assert "complete already" in again.stderr and again.stdout.splitlines()[-1] == verdict


def test_without_held_out_pairs_the_length_alone_counts(strong):
    finished = program.run_successfully(strong.but(test=None).arguments())
    assert read_verdict(strong.out).startswith("untested: the vector's norm is ") and "weak" not in finished.stdout
    assert len(read_samples(strong.out)) == 0


def test_only_a_complete_run_has_a_verdict(endless):
    with program.start(endless.arguments()) as running:
        program.wait_until(lambda: run_files.steps_saved(endless.out) > 2, running)
    with h5py.File(endless.out) as file:
        assert "verdict" not in file.attrs


def test_a_run_that_stopped_after_its_last_evaluation_gets_a_verdict(strong):
    """As an earlier version left it: without the samples."""
    program.run_successfully(strong.arguments())
    complete, verdict = run_files.read(strong.out), read_verdict(strong.out)
    with h5py.File(strong.out, "r+") as file:
        run_files.drop_checksums(file)
        del file["eval_samples"], file.attrs["verdict"]
        file.attrs["status"] = "interrupted"
    program.run_successfully(strong.arguments("--resume"))
    run_files.assert_identical(run_files.read(strong.out), complete)
    assert read_verdict(strong.out) == verdict


def test_a_sweep_marks_weak_cells(strong, tmp_path):
    settings = strong.but(out=tmp_path / "sweep", layer=None, layers="1", lr=None, lrs="0.3,1e-7").settings
    finished = program.run_successfully(["sweep", *program.options(settings)])
    assert len(re.findall(r"lr0\.3\S*  +complete  ", finished.stdout)) == 1, finished
    assert len(re.findall(r"lr1e-07\S*  +complete, weak  ", finished.stdout)) == 1, finished
    assert "weak cells: 1, whose vectors" in finished.stdout
    verdicts = sorted(read_verdict(path) for path in settings["out"].rglob("*.h5"))
    assert [verdict.partition(":")[0] for verdict in verdicts] == ["steers", "weak"]
    heading, *lines = program.run_successfully(["watch", settings["out"]]).stdout.splitlines()
    assert heading.endswith(": 2 of 2 cells done, 0 running, 0 failed, 1 weak"), heading
    marked = [line for line in lines if "weak" in line]
    assert len(marked) == 1 and re.match(r"  \S*lr1e-07\S*  +complete, weak  ", marked[0]), lines
    assert all(len(line) <= 80 for line in lines), lines
    weak, = (path for path in settings["out"].rglob("*.h5") if read_verdict(path).startswith("weak: "))
    heading, *lines = program.run_successfully(["watch", weak]).stdout.splitlines()
    assert ": complete, weak, saved " in heading and lines[-1].startswith("weak: `bipo-dist inspect` "), lines
