"""The command `extract`: the same direction on any ranks, files that other commands take, errors before work."""

import json
import re
from pathlib import Path

import h5py
import numpy
import pytest
from safetensors.torch import load_file

import program
import run_files
from lora_adapters import make_adapter, matrix_shapes
from tiny_models import TinyModel, write_model

LAYERS = 4  # of the tiny model


@pytest.fixture
def settings(job) -> dict:
    return {name: job.settings[name] for name in ("model", "train", "layer", "threads")}


def extract(out, settings, ranks=None, **changes):
    finished = program.run_successfully(
        ["extract", *program.options({**settings, "out": out, **changes})], ranks)
    return finished


def direction(out, settings, ranks=None, **changes) -> run_files.RunFile:
    extract(out, settings, ranks, **changes)
    return run_files.read(out)


def norm(vector) -> float:
    return float(numpy.linalg.norm(vector.astype(numpy.float64)))


@pytest.mark.parametrize("replicas", [2, 4])
def test_any_number_of_replicas_gives_the_same_bits(settings, tmp_path, replicas):
    alone = direction(tmp_path / "alone.h5", settings)
    shared = direction(tmp_path / "shared.h5", settings, replicas)
    assert shared.attributes["dp"] == replicas
    assert shared.vectors.tobytes() == alone.vectors.tobytes()
    assert shared.config["residual_norm"] == alone.config["residual_norm"]


@pytest.mark.parametrize("tp, dp", [(2, 1), (4, 1), (2, 2)])
def test_a_split_model_gives_the_same_within_rounding(settings, tmp_path, tp, dp):
    alone = direction(tmp_path / "alone.h5", settings).final_vector
    split = direction(tmp_path / "split.h5", settings, tp * dp, tp=tp).final_vector
    # Sums in another order: a few float32 roundings of activations some ten times as large as their mean.
    assert norm(split - alone) < 1e-5 * norm(alone)


@pytest.mark.parametrize("method, confidence", [("probe", None), ("pca", None), ("freeform", None), ("confst", 0.6)])
def test_every_method_shares_the_work(settings, tmp_path, method, confidence):
    chosen = {**settings, "method": method, "confidence": confidence}
    alone = direction(tmp_path / "alone.h5", chosen)
    replicas = direction(tmp_path / "replicas.h5", chosen, 2)
    assert replicas.vectors.tobytes() == alone.vectors.tobytes()
    length = norm(alone.final_vector)
    assert alone.config["method"] == method
    assert length == pytest.approx(1, rel=1e-6) if method in ("probe", "pca") else length > 0
    split = direction(tmp_path / "split.h5", chosen, 2, tp=2)
    # Float32 roundings of the activations, some hundred times as large in directions that hardly differ.
    assert norm(split.final_vector - alone.final_vector) < 1e-3 * length


def conceptor(out, settings, ranks=None, **changes) -> numpy.ndarray:
    extract(out, {**settings, "method": "conceptor"}, ranks, **changes)
    with h5py.File(out) as file:
        assert file.attrs["kind"] == "conceptor"
        return file["conceptor"][:]


def test_a_conceptor_shares_the_work(settings, tmp_path):
    alone = conceptor(tmp_path / "alone.h5", settings)
    replicas = conceptor(tmp_path / "replicas.h5", settings, 2)
    assert replicas.tobytes() == alone.tobytes()
    split = conceptor(tmp_path / "split.h5", settings, 2, tp=2)
    # Float32 roundings of the activations, by which a conceptor of aperture 10 changes a hundred times as much.
    assert numpy.linalg.norm(split - alone) < 1e-3 * numpy.linalg.norm(alone)


def test_a_conceptor_steers_alike_on_any_ranks(settings, tmp_path):
    conceptor(tmp_path / "c.h5", settings)
    found = []
    for name, ranks, tp in (("alone", None, None), ("replicas", 2, None), ("split", 2, 2)):
        out = tmp_path / f"{name}.h5"
        program.run_successfully(["evaluate", *program.options({
            "model": settings["model"], "threads": settings["threads"], "vector": f"{tmp_path / 'c.h5'}@1.5",
            "test": settings["train"], "multipliers": "0,1", "random_control": "off", "tp": tp, "out": out})], ranks)
        with h5py.File(out) as file:
            found.append(file["samples"][:])
    alone, replicas, split = found
    assert replicas.tobytes() == alone.tobytes()
    for column in ("chosen_logp", "rejected_logp"):
        numpy.testing.assert_allclose(split[column], alone[column], rtol=0, atol=1e-3)
    moves = (row["chosen_logp"] for row in (alone[alone["multiplier"] == 0], alone[alone["multiplier"] == 1]))
    assert abs(numpy.subtract(*moves)).max() > 0.01


def test_conceptors_of_several_layers_and_their_combination(settings, tmp_path):
    conceptor_files = [tmp_path / "all" / f"layer{layer}.h5" for layer in (1, 2)]
    made = extract(tmp_path / "all", settings, method="conceptor", aperture=2, layer=None, layers="1,2")
    assert all(str(file) in made.stdout for file in conceptor_files)
    assert "conceptors, layer 2/2" in made.stderr
    elsewhere = program.run(["extract", "--method", "conceptor-or", "--vector", conceptor_files[0], "--vector",
                             conceptor_files[1], "--out", tmp_path / "or.h5"])
    assert elsewhere.code == program.BAD_INPUT and "layer 2" in elsewhere.stderr, elsewhere
    no = ["extract", "--method", "conceptor-not", "--vector", conceptor_files[0], "--out", tmp_path / "not.h5"]
    # One of two ranks works, and both end.
    assert "conceptor-not of 1 conceptor of layer 1" in program.run_successfully(no, 2).stdout
    again = program.run(no)
    assert again.code == program.BAD_INPUT and "--overwrite" in again.stderr, again
    vector = direction(tmp_path / "caa.h5", settings)
    assert vector.config["method"] == "caa"
    other = program.run([*no[:4], tmp_path / "caa.h5", *no[5:-1], tmp_path / "no.h5"])
    assert other.code == program.BAD_INPUT and "a conceptor file" in " ".join(other.stderr.split()), other


def of_other_weights(conceptor_file, out) -> Path:
    """A copy that says that it is of other weights, as another program may write it: without checksums."""
    with h5py.File(conceptor_file) as whole, h5py.File(out, "w") as copy:
        for name in set(whole.attrs) - {"checksum"}:
            copy.attrs[name] = whole.attrs[name]
        copy.attrs["config"] = json.dumps({**json.loads(whole.attrs["config"]), "weights_hash": "0" * 16})
        matrix = whole["conceptor"][:]
        copy.create_dataset("conceptor", data=matrix, chunks=matrix.shape)
    return out


def test_conceptors_of_two_models_are_not_combined(settings, tmp_path):
    conceptor(tmp_path / "one.h5", settings)
    other = of_other_weights(tmp_path / "one.h5", tmp_path / "other.h5")
    both = ["extract", "--method", "conceptor-and", "--vector", tmp_path / "one.h5", "--out", tmp_path / "and.h5"]
    refused = program.run([*both, "--vector", other])
    said = " ".join(refused.stderr.split())
    assert refused.code == program.BAD_INPUT and str(other) in said and "other weights" in said, refused
    assert not (tmp_path / "and.h5").exists()
    program.run_successfully([*both, "--vector", tmp_path / "one.h5"])


def test_conceptors_need_room_on_the_disk_before_any_work(settings, tmp_path):
    out = tmp_path / "small" / "all"  # 18 kilobytes for each of four layers
    refused = program.run(["extract", *program.options({**settings, "method": "conceptor", "layer": None,
                                                        "layers": "all", "out": out})],
                          prefix=program.on_a_small_disk(tmp_path / "small", 40))
    assert refused.code == program.BAD_INPUT, refused
    assert str(out) in refused.stderr and "make room" in " ".join(refused.stderr.split()), refused


def test_mean_centring_counts_both_files(settings, tmp_path, tiny_test_pairs):
    centred = {**settings, "method": "mean-centring", "background": tiny_test_pairs}
    alone = direction(tmp_path / "alone.h5", centred)
    replicas = direction(tmp_path / "replicas.h5", centred, 3)
    assert replicas.vectors.tobytes() == alone.vectors.tobytes()
    split = direction(tmp_path / "split.h5", centred, 2, tp=2)
    assert norm(split.final_vector - alone.final_vector) < 1e-3 * norm(alone.final_vector)
    assert (alone.config["train_pairs"], alone.config["background_pairs"]) == (22, 9)
    assert alone.config["background"] == str(tiny_test_pairs)


def test_an_ensemble_is_the_mean_of_its_vectors(settings, tmp_path):
    first = direction(tmp_path / "caa.h5", settings).final_vector.astype(numpy.float64)
    second = direction(tmp_path / "pca.h5", settings, method="pca").final_vector.astype(numpy.float64)
    members = ["--method", "ensemble", "--vector", f"{tmp_path / 'caa.h5'}@2", "--vector", str(tmp_path / "pca.h5")]

    def ensemble(name, *extra, ranks=None):
        program.run_successfully(
            ["extract", *program.options({**settings, "out": tmp_path / name}), *members, *extra], ranks)
        return run_files.read(tmp_path / name)

    plain = ensemble("plain.h5")
    numpy.testing.assert_allclose(plain.final_vector, (2 * first + second) / 2, rtol=1e-6, atol=1e-9)
    assert plain.config["method"] == "ensemble"
    assert [(member["file"], member["weight"]) for member in plain.config["ensemble"]] == [
        (str(tmp_path / "caa.h5"), 2), (str(tmp_path / "pca.h5"), 1)]
    even = ensemble("even.h5", "--normalise", ranks=2)
    numpy.testing.assert_allclose(even.final_vector, (2 * first / norm(first) + second / norm(second)) / 2,
                                  rtol=1e-6, atol=1e-9)
    elsewhere = program.run(["extract", *program.options({**settings, "layer": 2, "out": tmp_path / "no.h5"}), *members])
    assert elsewhere.code == program.BAD_INPUT and "belongs to layer 1" in elsewhere.stderr, elsewhere
    assert not (tmp_path / "no.h5").exists()


def test_one_pass_writes_every_layer(settings, tmp_path):
    settings.pop("layer")
    extract(tmp_path / "all", settings, layers="all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [f"layer{n}.h5" for n in range(LAYERS)]
    for layer in range(LAYERS):
        together = run_files.read(tmp_path / "all" / f"layer{layer}.h5")
        alone = direction(tmp_path / f"{layer}.h5", settings, layer=layer)
        assert together.attributes["layer"] == layer == together.config["layer"]
        assert together.vectors.tobytes() == alone.vectors.tobytes()


def test_the_file_is_a_complete_run(settings, tmp_path, job):
    run = direction(tmp_path / "caa.h5", settings)
    run_files.assert_whole(tmp_path / "caa.h5")
    assert run.attributes["status"] == "complete"
    assert (len(run.steps), len(run.evals), len(run.vectors)) == (0, 0, 1)
    assert run.config["method"] == "caa" and run.config["norm"] == "as found"
    assert run.config["norm_found"] == run.config["norm_written"] == pytest.approx(norm(run.final_vector), rel=1e-6)
    shown = program.run_successfully(["inspect", tmp_path / "caa.h5"]).stdout
    assert re.search(r"status +complete", shown) and re.search(r"method +caa", shown)
    assert re.search(rf"0 +1 +0 +{norm(run.final_vector):.4f}$", shown, re.MULTILINE), shown
    resumed = program.run([*job.but(out=tmp_path / "caa.h5").arguments(), "--resume"])
    assert resumed.code == program.BAD_INPUT, resumed


def test_the_residual_norm_is_the_one_that_training_names(settings, tmp_path, job):
    run = direction(tmp_path / "caa.h5", settings)
    trained = program.run_successfully(job.but(max_steps=1, eval_every=0, epochs=1).arguments())
    named = re.search(r"residual stream after block 1: (\S+)", trained.stderr)
    assert run.config["residual_norm"] == pytest.approx(float(named[1]), rel=1e-3)


def test_results_on_stdout(settings, tmp_path):
    finished = extract(tmp_path / "caa.h5", settings)
    config = run_files.read(tmp_path / "caa.h5").config
    heading, row = finished.stdout.splitlines()
    assert heading.split()[0] == "layer"
    layer, found, written, share, file = row.split()
    assert layer == "1" and file == str(tmp_path / "caa.h5") and found == written
    assert float(found) == pytest.approx(config["norm_found"], rel=1e-5)
    assert float(share) == pytest.approx(100 * config["norm_found"] / config["residual_norm"], abs=0.006)


def test_scaled_directions(settings, tmp_path, job):
    plain = direction(tmp_path / "plain.h5", settings).final_vector
    scaled = direction(tmp_path / "scaled.h5", settings, norm=3).final_vector
    assert norm(scaled) == pytest.approx(3, rel=1e-6)
    numpy.testing.assert_allclose(scaled, plain * (3 / norm(plain)), rtol=1e-6)
    program.run_successfully(job.but(max_steps=3, eval_every=0).arguments())
    matched = direction(tmp_path / "matched.h5", settings, match_norm=job.out)
    assert norm(matched.final_vector) == pytest.approx(norm(run_files.read(job.out).final_vector), rel=1e-6)
    assert matched.config["match_norm"] == str(job.out)


def test_the_end_of_sequence_does_not_count(settings, tmp_path):
    """With and without it, an answer's positions are the same, and they see the same."""
    with_eos = direction(tmp_path / "with.h5", settings).final_vector
    without = direction(tmp_path / "without.h5", settings, no_eos=True).final_vector
    # The batches have one row more per answer, so that products may be summed in another order.
    assert norm(with_eos - without) < 1e-5 * norm(with_eos)


def test_an_existing_file_is_kept_unless_told_otherwise(settings, tmp_path):
    first = direction(tmp_path / "caa.h5", settings)
    refused = program.run(["extract", *program.options({**settings, "out": tmp_path / "caa.h5", "norm": 1})])
    assert refused.code == program.BAD_INPUT and "--overwrite" in refused.stderr, refused
    assert run_files.read(tmp_path / "caa.h5").vectors.tobytes() == first.vectors.tobytes()
    second = direction(tmp_path / "caa.h5", settings, norm=1, overwrite=True)
    assert norm(second.final_vector) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("changes, patterns", [
    ({"layer": 4}, [r"--layer 4", r"0 to 3"]),
    ({"layer": None, "layers": "2,9"}, [r"--layers", r"\b9\b", r"0 to 3"]),
    ({"layer": None, "layers": "2,2"}, [r"--layers", "more than once"]),
    ({"layer": None}, ["--layer", "--layers"]),
    ({"method": "lda"}, ["--method", "caa", "probe"]),
    ({"probe_c": 2}, ["--probe-c", "--method probe"]),
    ({"confidence": 0.8}, ["--confidence", "--method confst"]),
    ({"aperture": 2}, ["--aperture", "--method conceptor"]),
    ({"method": "conceptor", "norm": 1}, ["--norm", "matrix"]),
    ({"method": "conceptor-not", "vector": "nowhere.h5"}, ["--layer has no meaning", "--method conceptor-and"]),
    ({"method": "mean-centring"}, ["--background"]),
    ({"method": "ensemble"}, ["--vector"]),
    ({"method": "caa-letter", "max_pairs": 3}, ["--max-pairs", "A/B items"]),
    ({"method": "caa-letter"}, [r"\bA\b"]),
    ({"method": "ensemble", "vector": "nowhere.h5"}, [r"nowhere\.h5"]),
    ({"method": "mean-centring", "background": "nowhere.csv"}, [r"nowhere\.csv"]),
    ({"norm": 0}, ["--norm", "above 0"]),
    ({"match_norm": "nowhere.h5"}, [r"nowhere\.h5", "no such file"]),
    ({"train": "nowhere.csv"}, [r"nowhere\.csv"]),
    ({"model": "nowhere"}, ["nowhere"]),
    ({"out": "nowhere/caa.h5"}, ["nowhere"]),
    ({"layer": None, "layers": "all", "out": "nowhere/at/all"}, ["--out", "nowhere/at/all"]),
    ({"tp": 2}, ["world = cells x dp x tp"]),
    ({"max_length": 5}, ["limit is 5"]),
], ids=str)
def test_bad_input_is_found_before_any_work(settings, tmp_path, changes, patterns):
    out = tmp_path / "caa.h5"
    finished = program.run(["extract", *program.options({**settings, "out": out, **changes})])
    assert finished.code == program.BAD_INPUT, finished
    for pattern in patterns:
        assert re.search(pattern, finished.stderr), f"no {pattern!r} in\n{finished}"
    assert finished.stdout == "" and list(tmp_path.iterdir()) == [], finished


def test_an_ensemble_keeps_the_positions_that_its_vectors_share(settings, tmp_path, job):
    for name, positions in (("one", "last:1"), ("two", "last:1"), ("free", None)):
        made = job.but(layer=settings["layer"], max_steps=1, eval_every=0, positions=positions,
                       out=tmp_path / f"{name}.h5")
        program.run_successfully(made.arguments())

    def ensemble(*names):
        members = [word for name in names for word in ("--vector", str(tmp_path / f"{name}.h5"))]
        said = program.run_successfully(
            ["extract", *program.options({**settings, "out": tmp_path / "mean.h5", "method": "ensemble"}), *members,
             "--overwrite"])
        return run_files.read(tmp_path / "mean.h5").config, said.stderr

    config, said = ensemble("one", "two")
    assert config["steered_positions"] == "last:1" and "different positions" not in said
    config, said = ensemble("one", "free")
    assert "steered_positions" not in config and "different positions" in said and "last:1" in said


def test_a_vector_of_zeros_has_no_length_to_match(settings, tmp_path, job):
    program.run_successfully(job.but(max_steps=1, eval_every=0, warmup_steps=1).arguments())  # lr is 0 at first
    assert norm(run_files.read(job.out).final_vector) == 0
    finished = program.run(["extract", *program.options({**settings, "out": tmp_path / "caa.h5",
                                                         "match_norm": job.out})])
    assert finished.code == program.BAD_INPUT and "zero" in finished.stderr, finished


def test_a_direction_of_zeros_is_told(settings, tmp_path):
    alike = tmp_path / "alike.csv"
    alike.write_text("question,matching,not_matching\nIs it warm?,yes,yes\n")
    said = program.run_successfully(["extract", *program.options({**settings, "train": alike,
                                                                  "out": tmp_path / "zero.h5"})]).stderr
    assert re.search(r"warning: the direction of layer \d+ is zero, so that its file steers nothing", said), said


def test_one_message_however_many_ranks(settings, tmp_path):
    finished = program.run(["extract", *program.options({**settings, "out": tmp_path / "caa.h5", "layer": 44})], 2)
    assert finished.code == program.BAD_INPUT, finished
    assert finished.stderr.count("--layer 44") == 1, finished


def test_an_adapter_changes_the_direction(settings, tmp_path):
    weights = load_file(settings["model"] / "model.safetensors")
    adapter = make_adapter(matrix_shapes(weights)).write(tmp_path / "adapter")
    plain = direction(tmp_path / "plain.h5", settings)
    adapted = direction(tmp_path / "adapted.h5", settings, adapter=adapter)
    assert adapted.config["adapter"] == str(adapter)
    assert norm(adapted.final_vector - plain.final_vector) > 0.01 * norm(plain.final_vector)


def test_another_family_of_sizes(tmp_path, settings):
    """A vocabulary and columns that no number of ranks divides."""
    model = write_model(tmp_path / "odd", TinyModel(vocab_size=301, intermediate_size=83, tied=True))
    odd = {**settings, "model": model, "layer": 3}
    alone = direction(tmp_path / "alone.h5", odd).final_vector
    split = direction(tmp_path / "split.h5", odd, 3, tp=3).final_vector
    assert norm(split - alone) < 1e-5 * norm(alone)
