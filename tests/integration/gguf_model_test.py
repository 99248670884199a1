"""A model as one GGUF file, tokenizer and chat template included, against the directory it was made from."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import program
import run_files
from gguf_models import write_gguf


@pytest.mark.parametrize("tp", [1, 3])
def test_training_is_the_same_to_the_bit(job, tiny_model, tmp_path, tp):
    """The same numbers under other names, in another order of rows, cut by another reader."""
    from_directory = job.but(tp=tp).writing("directory.h5")
    program.run_successfully(from_directory.arguments(), ranks=tp)
    from_file = from_directory.but(model=write_gguf(tmp_path / "model.gguf", tiny_model)).writing("gguf.h5")
    program.run_successfully(from_file.arguments(), ranks=tp)
    expected, found = (run_files.read(each.out).vectors for each in (from_directory, from_file))
    assert np.any(expected != 0)
    np.testing.assert_array_equal(found, expected)


def refused(job, model: Path, *parts: str) -> None:
    finished = program.run(job.but(model=model).arguments())
    assert finished.code == 2, str(finished)
    for part in (model.name, *parts):
        assert part in finished.stderr, str(finished)


def test_a_file_without_tokenizer(job, tiny_model, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", tiny_model, with_tokenizer=False)
    refused(job, path, "tokenizer.ggml.tokens", "Hugging Face directory")


@pytest.mark.parametrize("key, add", [
    ("remove_extra_whitespaces", lambda writer, key: writer.add_bool(key, True)),
    ("precompiled_charsmap", lambda writer, key: writer.add_array(key, [1, 2, 3])),
    ("add_bos_token", lambda writer, key: writer.add_string(key, "yes")),
    ("eos_token_id", lambda writer, key: writer.add_uint32(key, 300)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_would_change_the_tokens_is_refused(job, tiny_model, tmp_path, key, add):
    def change(writer: gguf.GGUFWriter) -> None:
        full = f"tokenizer.ggml.{key}"
        for fields in writer.kv_data:
            fields.pop(full, None)
        add(writer, full)

    refused(job, write_gguf(tmp_path / "model.gguf", tiny_model, change=change), f"tokenizer.ggml.{key}")
