"""The arrangement of ranks must not matter: not at all for dp, within rounding for tp."""

import numpy
import pytest

import program
import run_files

# fp32 sums in another order: the log-probabilities of an answer (about 150 nats) differ by some 1e-5,
# beta times that is what the loss can see of it.
LOSS_RTOL = 1e-5
VECTOR_COSINE = 0.999999


def train(job, ranks=None, **changes):
    changed = job.but(**changes)
    finished = program.run_successfully(changed.arguments(), ranks)
    return run_files.read(changed.out), finished


def assert_equivalent(run, expected):
    """Same course within fp32 rounding."""
    numpy.testing.assert_allclose(run.steps["loss"], expected.steps["loss"], rtol=LOSS_RTOL, atol=0)
    numpy.testing.assert_allclose(run.steps["grad_norm"], expected.steps["grad_norm"], rtol=1e-3)
    assert list(run.steps["sign"]) == list(expected.steps["sign"])
    assert run_files.cosine(run.final_vector, expected.final_vector) >= VECTOR_COSINE


@pytest.mark.parametrize("sign", ["batch", "pair", "both"])
def test_any_number_of_replicas_gives_the_same_bits(job, sign):
    settings = {"batch_size": 8, "micro_batch": 1, "sign": sign, "epochs": 1}
    alone, _ = train(job.writing("alone.h5"), **settings)
    assert alone.steps["vector_norm"][-1] > 0.05, "hardly moved: the comparison says nothing"
    for replicas in (2, 4, 8) if sign == "batch" else (2, 4):
        run, _ = train(job.writing(f"dp{replicas}.h5"), replicas, dp=replicas, **settings)
        assert run.attributes["dp"] == replicas
        run_files.assert_identical(run, alone)


def test_larger_micro_batches_give_the_same_bits_for_any_number_of_replicas(job):
    settings = {"batch_size": 8, "micro_batch": 2, "epochs": 1}
    alone, _ = train(job.writing("alone.h5"), **settings)
    for replicas in (2, 4):
        run, _ = train(job.writing(f"dp{replicas}.h5"), replicas, **settings)
        run_files.assert_identical(run, alone)


def test_the_size_of_the_micro_batch_changes_only_rounding(job):
    one, _ = train(job.writing("one.h5"), micro_batch=1)
    four, _ = train(job.writing("four.h5"), micro_batch=4)
    assert_equivalent(four, one)


def test_mpirun_with_one_rank_equals_the_bare_program(job):
    bare, _ = train(job.writing("bare.h5"))
    one, _ = train(job.writing("one.h5"), 1)
    run_files.assert_identical(one, bare)


def test_replicas_without_work_idle_with_one_warning(job):
    settings = {"batch_size": 4, "micro_batch": 1, "epochs": 1}
    busy, _ = train(job.writing("busy.h5"), 4, **settings)
    idle, finished = train(job.writing("idle.h5"), 8, **settings)
    run_files.assert_identical(idle, busy)
    warnings = [line for line in finished.stderr.splitlines() if "warning" in line.lower() and "idle" in line]
    assert len(warnings) == 1, finished
    assert "--batch-size" in warnings[0] or "--micro-batch" in warnings[0], "it must say what to change"


@pytest.mark.parametrize("tp", [2, 3, 4, 6])
def test_any_tensor_parallel_split_agrees(job, tp):
    """6 query heads and 2 kv heads: 4 splits both unevenly, 6 replicates each kv head three times."""
    alone, _ = train(job.writing("alone.h5"), micro_batch=2)
    run, _ = train(job.writing(f"tp{tp}.h5"), tp, tp=tp, micro_batch=2)
    assert run.attributes["tp"] == tp
    assert_equivalent(run, alone)


@pytest.mark.parametrize("dp, tp", [(2, 2), (2, 3)])
def test_replicas_of_tensor_parallel_groups(job, dp, tp):
    """dp must be exact inside any tp: the gradient is summed over the replicas, not over the world."""
    settings = {"micro_batch": 1, "epochs": 1}
    group, _ = train(job.writing("group.h5"), tp, tp=tp, **settings)
    both, _ = train(job.writing("both.h5"), dp * tp, dp=dp, tp=tp, **settings)
    run_files.assert_identical(both, group)
    alone, _ = train(job.writing("alone.h5"), **settings)
    assert_equivalent(both, alone)
