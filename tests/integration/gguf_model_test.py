"""A model as one GGUF file, tokenizer and chat template included, against the directory it was made from."""

from __future__ import annotations

import json
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


def vector_of(job, *options) -> np.ndarray:
    program.run_successfully(job.arguments("--overwrite", *options))
    return run_files.read(job.out).vectors


@pytest.mark.parametrize("options", [["--bos", "auto"], ["--bos", "always"], ["--no-bos"]],
                         ids=lambda options: options[-1])
def test_plain_texts_begin_as_those_of_the_directory(job, tiny_model, tmp_path, options):
    """The tokenizer itself puts BOS before a plain text, by post-processor or add_bos_token."""
    plain = ["--chat-template", "plain", *options]
    path = write_gguf(tmp_path / "model.gguf", tiny_model)
    vectors = vector_of(job, *plain)
    np.testing.assert_array_equal(vector_of(job.but(model=path), *plain), vectors)
    bare = vector_of(job, "--chat-template", "plain", "--bos", "never")
    assert np.array_equal(bare, vectors) == (options == ["--no-bos"])


def set_keys(**values):
    """Replaces keys under tokenizer.ggml of a writer; None takes one away."""
    def change(writer: gguf.GGUFWriter) -> None:
        for key, value in values.items():
            full = f"tokenizer.ggml.{key}"
            for fields in writer.kv_data:
                fields.pop(full, None)
            if value is not None:
                (writer.add_bool if isinstance(value, bool) else writer.add_string)(full, value)

    return change


@pytest.mark.parametrize("name, begins", [("tekken", True), ("llama3", True), ("falcon3", True), ("pixtral", True),
                                          ("gpt-2", False), ("smaug-bpe", False)])
def test_without_the_key_the_pre_tokenizers_name_decides_on_bos(job, tiny_model, tmp_path, name, begins):
    """As llama.cpp b11549 does."""
    vectors = {}
    for number, key in enumerate((None, True, False)):
        path = write_gguf(tmp_path / f"{number}.gguf", tiny_model, change=set_keys(pre=name, add_bos_token=key))
        vectors[key] = vector_of(job.but(model=path), "--chat-template", "plain")
    assert not np.array_equal(vectors[True], vectors[False])
    np.testing.assert_array_equal(vectors[None], vectors[begins])


def test_templates_with_names(job, tiny_model, tmp_path):
    """As gguf's add_chat_template writes a list: the default one counts, and without it the others are named."""
    def change(writer: gguf.GGUFWriter, **templates: str) -> None:
        for fields in writer.kv_data:
            fields.pop("tokenizer.chat_template", None)
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])

    template = (tiny_model / "tokenizer_config.json").read_text(encoding="utf-8")
    text = json.loads(template)["chat_template"]
    both = write_gguf(tmp_path / "both.gguf", tiny_model, change=lambda w: change(w, rag="{{ broken", default=text))
    np.testing.assert_array_equal(vector_of(job.but(model=both)), vector_of(job))
    refused(job, write_gguf(tmp_path / "rag.gguf", tiny_model, change=lambda w: change(w, rag=text)), "only rag")


def test_a_split_that_the_converter_did_not_know_is_warned_of(job, tiny_model, tmp_path):
    for pre in ("default", None):
        path = write_gguf(tmp_path / f"{pre}.gguf", tiny_model, change=set_keys(pre=pre))
        finished = program.run_successfully(job.but(model=path).arguments("--overwrite"))
        lines = [line for line in finished.stderr.splitlines() if "tokenizer.ggml.pre" in line]
        assert len(lines) == 1 and "llama.cpp" in lines[0], finished


def refused(job, model: Path, *parts: str) -> None:
    finished = program.run(job.but(model=model).arguments("--overwrite"))
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
