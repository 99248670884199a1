"""--check-weights finds numbers that are NaN or infinite before any work, on any number of ranks."""


import numpy
import pytest

import damaged_models as damage
import program
from tiny_models import TinyModel, write_model


def poison(model, values):
    """Replaces the first numbers of some tensors; `values` by name."""
    def edit(header, data):
        for name, numbers in values.items():
            begin = header[name]["data_offsets"][0]
            encoded = numpy.array(numbers, numpy.float32).tobytes()
            data[begin:begin + len(encoded)] = encoded

    damage.edit_safetensors(model / damage.WEIGHTS, edit)


NAN, INFINITY = float("nan"), float("inf")
POISON = {"model.layers.2.mlp.down_proj.weight": [NAN] * 100,
          "model.layers.0.input_layernorm.weight": [0.5, -INFINITY],
          "model.embed_tokens.weight": [INFINITY, NAN, 1e38],
          "lm_head.weight": [1, 2, NAN]}
COUNTS = {"model.layers.2.mlp.down_proj.weight": 100, "model.layers.0.input_layernorm.weight": 1,
          "model.embed_tokens.weight": 2, "lm_head.weight": 1}


@pytest.fixture
def poisoned(tiny_model, tmp_path):
    model = damage.copy_of(tiny_model, tmp_path)
    poison(model, POISON)
    return model


def assert_reported(finished, model):
    assert finished.code == program.BAD_INPUT, finished
    for name, count in COUNTS.items():
        said = f"{model}/{damage.WEIGHTS}: tensor {name}: {count} of its numbers"
        assert finished.stderr.count(said) == 1, f"not once: {said}\n{finished}"
    assert "4 tensors are" in finished.stderr, finished


@pytest.mark.parametrize("ranks, tp", [(None, 1), (2, 1), (2, 2), (3, 3)])
def test_all_are_named_once(job, poisoned, ranks, tp):
    finished = program.run(job.but(model=poisoned, tp=tp).arguments("--check-weights"), ranks)
    assert_reported(finished, poisoned)
    assert not job.out.exists()


def test_sound_weights_pass(job):
    program.run_successfully(job.but(epochs=1).arguments("--check-weights"), 2)


def test_sweep_checks_each_model(job, tiny_model, poisoned, tmp_path):
    finished = program.run(["sweep", "--models", f"{tiny_model},{poisoned}", "--train", job.settings["train"],
                            "--layers", 1, "--out", tmp_path / "sweep", "--check-weights"], 2)
    assert_reported(finished, poisoned)
    assert not (tmp_path / "sweep").exists()


def test_shards_are_told_apart(job, tmp_path):
    model = write_model(tmp_path / "sharded", TinyModel(max_shard_size="60KB"))
    shards = sorted(model.glob("model-*.safetensors"))
    found = []

    def edit(header, data):
        found.append(damage.in_file_order(header)[0])
        data[0:4] = numpy.array([NAN], numpy.float32).tobytes()

    damage.edit_safetensors(shards[2], edit)
    finished = program.run(job.but(model=model).arguments("--check-weights"))
    assert finished.code == program.BAD_INPUT, finished
    assert f"{shards[2]}: tensor {found[0]}: 1 of its numbers" in finished.stderr, finished
