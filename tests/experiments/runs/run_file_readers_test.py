"""Run files read by h5py, pandas and h5dump, which know nothing of the writer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import h5py
import numpy
import pandas
import pytest

WRITER = os.environ["BIPO_WRITE_SAMPLE_RUN"]
HIDDEN = 6

TEXT_ATTRIBUTES = {
    "status": "running",
    "config": '{"lr":0.0005,"sign":"batch","system-prompt":"Sois bref, s\'il te pla\\u00eet."}',
    "program_version": "0.1.0", "git_commit": "0123456789abcdef",
    "created_utc": "2026-01-02T03:04:05Z", "model": "models/größe", "backend": "mpi",
    "dtype": "fp32", "hosts": "node1,node2"}
INTEGER_ATTRIBUTES = {
    "schema_version": 1, "layer": 15, "hidden_size": HIDDEN, "world_size": 4, "dp": 2, "tp": 2}
STEP_TYPES = [
    ("step", "<i8"), ("epoch", "<i4"), ("lr", "<f8"), ("loss", "<f8"), ("margin", "<f8"),
    ("accuracy", "<f8"), ("sign", "|i1"), ("grad_norm", "<f8"), ("vector_norm", "<f8"),
    ("tokens", "<f8"), ("seconds", "<f8")]
EVAL_TYPES = [
    ("step", "<i8"), ("epoch", "<i4"), ("multiplier", "<f8"), ("pairs", "<f8"), ("loss", "<f8"),
    ("margin", "<f8"), ("accuracy", "<f8"), ("chosen_logp", "<f8"), ("rejected_logp", "<f8")]
SAMPLE_TYPES = [
    ("step", "<i8"), ("epoch", "<i4"), ("multiplier", "<f8"), ("pair", "<i8"), ("chosen_logp", "<f8"),
    ("rejected_logp", "<f8")]


def write_sample(path: Path, steps: int) -> Path:
    subprocess.run([WRITER, str(path), str(steps)], check=True)
    return path


def hidden_values(first: float) -> numpy.ndarray:
    return (first + 0.25 * numpy.arange(HIDDEN)).astype("<f4")


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return write_sample(tmp_path_factory.mktemp("run") / "run.h5", 5)


@pytest.fixture
def opened(sample):
    with h5py.File(sample, "r") as file:
        yield file


def test_text_attributes_are_str(opened):
    for name, expected in TEXT_ATTRIBUTES.items():
        assert type(opened.attrs[name]) is str, name
        assert opened.attrs[name] == expected, name


def test_integer_attributes_are_int64_scalars(opened):
    for name, expected in INTEGER_ATTRIBUTES.items():
        assert opened.attrs[name] == expected, name
        assert opened.attrs[name].dtype == numpy.dtype("<i8"), name
        assert opened.attrs[name].shape == (), name


def test_root_holds_what_the_design_lists_and_no_more(opened):
    assert set(opened.attrs) == TEXT_ATTRIBUTES.keys() | INTEGER_ATTRIBUTES.keys() | {"checksum"}
    assert set(opened) == {"steps", "evals", "eval_samples", "vectors", "checkpoint"}
    assert set(opened["vectors"]) == {"value", "step", "epoch"}
    assert set(opened["checkpoint"]) == {"vector", "exp_avg", "exp_avg_sq", "step", "seed"}


@pytest.mark.parametrize("table, types", [
    ("steps", STEP_TYPES), ("evals", EVAL_TYPES), ("eval_samples", SAMPLE_TYPES)])
def test_tables_are_chunked_packed_compounds(opened, table, types):
    dataset = opened[table]
    assert dataset.dtype == numpy.dtype(types)
    assert dataset.chunks is not None
    assert dataset.maxshape == (None,)


@pytest.mark.parametrize("table, types", [("steps", STEP_TYPES), ("evals", EVAL_TYPES)])
def test_every_column_has_unit_and_meaning(opened, table, types):
    units = json.loads(opened[table].attrs["units"])
    assert list(units) == [name for name, _ in types]
    assert all(set(entry) == {"unit", "meaning"} and all(entry.values()) for entry in units.values())
    assert units["loss"]["unit"] == "nats"


def test_steps_as_a_data_frame(opened):
    frame = pandas.DataFrame(opened["steps"][:])
    index = numpy.arange(5)
    expected = pandas.DataFrame({
        "step": index, "epoch": (index // 2).astype("int32"), "lr": 5e-4 * (index + 1),
        "loss": 0.75 - 0.125 * index, "margin": 0.5 * index,
        "accuracy": [0.25, 0.75, 0.25, 0.75, 0.25], "sign": numpy.array([-1, 0, 1, -1, 0], "int8"),
        "grad_norm": 1.5 + index, "vector_norm": 2.25 * index, "tokens": 100.0 + index,
        "seconds": [0.5] * 5})
    pandas.testing.assert_frame_equal(frame, expected, check_exact=True)


def test_evals_as_a_data_frame(opened):
    frame = pandas.DataFrame(opened["evals"][:])
    assert list(frame["step"]) == [2, 2, 2, 4, 4, 4]
    assert list(frame["epoch"]) == [0, 0, 0, 1, 1, 1]
    assert list(frame["multiplier"]) == [-1, 0, 1.5] * 2
    assert list(frame["margin"]) == [-2, 0, 3] * 2
    assert list(frame["chosen_logp"]) == [-11, -10, -8.5] * 2


def test_vectors(opened):
    vectors = opened["vectors"]
    assert vectors["value"].dtype == numpy.dtype("<f4")
    numpy.testing.assert_array_equal(vectors["value"][:], [hidden_values(1), hidden_values(3)])
    assert vectors["step"].dtype == numpy.dtype("<i8") and list(vectors["step"]) == [2, 4]
    assert vectors["epoch"].dtype == numpy.dtype("<i4") and list(vectors["epoch"]) == [0, 1]
    assert type(vectors["value"].attrs["dims"]) is str


def test_checkpoint(opened):
    checkpoint = opened["checkpoint"]
    for name, first in (("vector", 10), ("exp_avg", 20), ("exp_avg_sq", 30)):
        assert checkpoint[name].dtype == numpy.dtype("<f4")
        numpy.testing.assert_array_equal(checkpoint[name][:], hidden_values(first))
        assert checkpoint[name].attrs["units"] and checkpoint[name].attrs["dims"]
    assert checkpoint["step"][()] == 5 and checkpoint["step"].dtype == numpy.dtype("<i8")
    assert checkpoint["seed"][()] == 2**64 - 2 and checkpoint["seed"].dtype == numpy.dtype("<u8")


def test_first_save_has_every_dataset_empty(tmp_path):
    with h5py.File(write_sample(tmp_path / "run.h5", 0), "r") as file:
        assert file["steps"].dtype == numpy.dtype(STEP_TYPES)
        assert len(pandas.DataFrame(file["steps"][:])) == 0
        assert len(pandas.DataFrame(file["evals"][:])) == 0
        assert file["vectors/value"].shape == (0, HIDDEN)
        assert file["vectors/step"].shape == file["vectors/epoch"].shape == (0,)
        assert file["checkpoint/vector"].shape == (HIDDEN,)


def test_h5dump_reads_all_of_it(sample):
    dump = subprocess.run(["h5dump", str(sample)], check=True, capture_output=True, text=True)
    assert dump.stderr == ""
    assert re.search(r'DATASET "steps" \{\s+DATATYPE  H5T_COMPOUND \{\s+H5T_STD_I64LE "step";', dump.stdout)
    assert "H5T_VLEN" not in dump.stdout
    assert re.search(r'DATASET "seed" \{[^}]*DATASPACE  SCALAR\s+DATA \{\s+\(0\): 18446744073709551614', dump.stdout)


def test_the_seal_is_the_checksum_of_all_bytes_before_it(sample):
    content = sample.read_bytes()
    assert content[-32:-24] == b"bipo-sum"
    assert int.from_bytes(content[-24:-16], "little") == len(content) - 32
    assert content[-16:] == hashlib.blake2b(content[:-32], digest_size=16).digest()


def test_every_dataset_has_the_checksum_of_its_values(opened):
    datasets = []
    opened.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
    assert len(datasets) == 11
    for dataset in datasets:
        text = f"{dataset.name.split('/')[-1]}[{','.join(map(str, dataset.shape))}]"
        text += ",".join(dataset.dtype.names or ())
        expected = hashlib.blake2b(text.encode() + dataset[()].tobytes(), digest_size=16).hexdigest()
        assert dataset.attrs["checksum"] == expected, dataset.name


def test_the_root_has_the_checksum_of_its_attributes(opened):
    stored, names = opened.attrs["checksum"].split(":")
    assert set(names.split(",")) == TEXT_ATTRIBUTES.keys() | INTEGER_ATTRIBUTES.keys()
    text = "".join(f"{name}\0{(TEXT_ATTRIBUTES | INTEGER_ATTRIBUTES)[name]}\0" for name in names.split(","))
    assert stored == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_h5repack_keeps_all_but_the_seal(sample, opened, tmp_path):
    subprocess.run(["h5repack", str(sample), str(tmp_path / "copy.h5")], check=True)
    assert b"bipo-sum" not in (tmp_path / "copy.h5").read_bytes()
    with h5py.File(tmp_path / "copy.h5") as copy:
        assert dict(copy.attrs) == dict(opened.attrs)
        assert copy["steps"].attrs["checksum"] == opened["steps"].attrs["checksum"]


@pytest.mark.parametrize("change", [
    lambda file: file.attrs.modify("note", "mine"), lambda file: file.create_group("mine"),
    lambda file: file["evals"].resize(1, 0), lambda file: file["checkpoint/step"].write_direct(numpy.array(3))],
    ids=["attribute", "group", "resize", "value"])
def test_h5py_cuts_the_seal_off(sample, tmp_path, change):
    path = tmp_path / "run.h5"
    path.write_bytes(sample.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    assert b"bipo-sum" not in path.read_bytes()


def test_a_reader_that_has_the_file_open_keeps_the_old_one(tmp_path):
    path = write_sample(tmp_path / "run.h5", 2)
    with h5py.File(path, "r") as file:
        write_sample(path, 5)
        assert len(file["steps"][:]) == 2
    with h5py.File(path, "r") as file:
        assert len(file["steps"][:]) == 5
