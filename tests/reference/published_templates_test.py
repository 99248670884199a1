"""The chat templates that TRL 1.16.0 keeps of published models of text, rendered by bipo-dist and by transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl
from chat_template_parity_test import conversations, render_here, render_there, today, write_model

# Of models of text that the program may run; those "for training" mark the assistant's part and print the same.
KINDS = ("cohere", "gemma", "glm4", "llama", "phi", "qwen")
TEMPLATES = sorted(path for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
                   if path.name.startswith(KINDS) and not path.stem.endswith("_training"))
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}


def test_there_are_templates_of_every_kind():
    assert {kind for path in TEMPLATES for kind in KINDS if path.name.startswith(kind)} == set(KINDS)


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_prompts_equal_transformers(path: Path, tmp_path: Path):
    template = path.read_text(encoding="utf-8")
    write_model(tmp_path, template, TOKENS, as_file=True)
    about, answers = render_here(tmp_path, [{"messages": messages} for messages in conversations()])
    assert "error" not in about, about
    for messages, answer in zip(conversations(), answers, strict=True):
        try:
            expected = render_there(template, TOKENS, messages)
        except Exception as refusal:  # what raise_exception() raises differs by Jinja's version
            assert str(refusal) in answer["error"]
        else:
            assert answer["text"] == expected
