"""Prompts, BOS and end tokens of directories as users have them: scores and texts of transformers 5.23.0.

The expected values of the base model and its edits are computed by transformers and TRL in the same run.
"""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import program
import user_files
from user_files import copy_of, edit_json, scores, transformers_scores

CLOSE = 2e-3  # nats of some hundred


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return user_files.write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def edited(base, tmp_path) -> Path:
    return copy_of(base, tmp_path / "edited")


def take_away(directory: Path, text: str) -> int:
    """Takes an added token out of tokenizer.json and closes the gap; returns the id that is free."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = [token for token in content["added_tokens"] if token["content"] != text]
    first = len(content["model"]["vocab"])
    for at, token in enumerate(kept):
        token["id"] = first + at
    path.write_text(json.dumps(content | {"added_tokens": kept}), encoding="utf-8")
    return first + len(kept)


def flags(content: str, **others: object) -> dict:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True} | others


def check(directory: Path, base: Path, differs: bool = True) -> str:
    """The program scores as transformers does, which is not as the base unless the edit changes nothing."""
    found, errors = scores(directory)
    expected = transformers_scores(directory)
    assert found == pytest.approx(expected, abs=CLOSE)
    if differs:
        assert abs(found[0] - scores(base)[0][0]) > 10 * CLOSE, "the edit changes no score, so this shows nothing"
    return errors


def test_a_token_that_only_added_tokens_decoder_has(edited, base):
    free = take_away(edited, "<|im_start|>")
    content = json.loads((edited / "tokenizer.json").read_text(encoding="utf-8"))
    listed = {str(token["id"]): flags(token["content"]) for token in content["added_tokens"]}
    edit_json(edited / "tokenizer_config.json", added_tokens_decoder=listed | {str(free): flags("<|im_start|>")})
    check(edited, base)


def test_a_token_that_only_extra_special_tokens_has(edited, base):
    take_away(edited, "<|im_start|>")
    edit_json(edited / "tokenizer_config.json", extra_special_tokens=["<|im_start|>"])
    check(edited, base)


def test_an_eos_that_only_tokenizer_config_has(edited, base):
    take_away(edited, "<|im_end|>")
    check(edited, base)


def test_an_added_token_whose_id_leaves_a_hole(edited, base):
    content = json.loads((edited / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][2]["id"] += 8
    (edited / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    errors = check(edited, base, differs=False)
    assert errors.count("<|eot|>") == 1, errors


def test_special_tokens_map_with_another_eos(edited, base):
    (edited / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eot|>"}), encoding="utf-8")
    check(edited, base)


def test_a_template_that_prints_a_further_special_token(edited, base):
    edit_json(edited / "tokenizer_config.json", image_token="<|eot|>")
    (edited / "chat_template.jinja").write_text("{{ image_token }}" + user_files.CHATML, encoding="utf-8")
    check(edited, base)


def test_tokens_of_text_that_extra_special_tokens_name(edited, base):
    vocabulary = json.loads((edited / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    text = " ".join(" ".join(pair) for pair in user_files.PAIRS)
    inside = [token for token in vocabulary if len(token) > 1 and token.isascii() and token in text]
    edit_json(edited / "tokenizer_config.json", extra_special_tokens=sorted(inside)[:6])
    check(edited, base)


def test_a_bos_that_the_template_does_not_print(edited, base):
    """transformers and TRL 1.16 put none; --bos always does."""
    edit_json(edited / "tokenizer_config.json", bos_token="<|eot|>")
    check(edited, base, differs=False)
    always = scores(edited, "--bos", "always")[0]
    (edited / "chat_template.jinja").write_text("{{ bos_token }}" + user_files.CHATML, encoding="utf-8")
    assert always == pytest.approx(transformers_scores(edited), abs=CLOSE)
    assert always == pytest.approx(scores(edited)[0], abs=1e-6) == scores(edited, "--bos", "always")[0]
    rows = [{"prompt": [{"role": "user", "content": q}], "chosen": [{"role": "assistant", "content": a}],
             "rejected": [{"role": "assistant", "content": b}]} for q, a, b in user_files.PAIRS]
    assert user_files.trl_rows(edited, rows)[0]["prompt_ids"][:1] == [AutoTokenizer.from_pretrained(edited).bos_token_id]


def generate(directory: Path, prompt: str, *options: object, count: int = 12) -> tuple[dict, str]:
    out = directory / "out.jsonl"
    finished = program.run_successfully(["generate", "--model", directory, "--prompt", prompt, "--multipliers", 0,
                                         "--max-new-tokens", count, "--system-prompt", "", "--out", out, "--overwrite",
                                         *options])
    return json.loads(out.read_text(encoding="utf-8")), finished.stderr


def generated_by_transformers(directory: Path, ids: list[int], count: int = 12, **settings: object) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0, **settings)
    return out[0, len(ids):].tolist()


def chat_ids(directory: Path, question: str) -> list[int]:
    fast = AutoTokenizer.from_pretrained(directory)
    text = fast.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False)
    return fast(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("adds", [False, True], ids=["without", "with"])
def test_a_plain_prompt_begins_by_the_tokenizers_own_rule(edited, adds):
    """The post-processor of tokenizer.json; transformers 5.23 passes over add_bos_token."""
    edit_json(edited / "tokenizer_config.json", bos_token="<|eot|>", add_bos_token=not adds)
    if adds:
        path = str(edited / "tokenizer.json")
        fast = Tokenizer.from_file(path)
        fast.post_processor = processors.TemplateProcessing(
            single="<|eot|> $A", special_tokens=[("<|eot|>", fast.token_to_id("<|eot|>"))])
        fast.save(path)
    question = "Where are the keys kept?"
    ids = AutoTokenizer.from_pretrained(edited)(question + "\n").input_ids
    assert (ids[0] == AutoTokenizer.from_pretrained(edited).bos_token_id) == adds
    row, _ = generate(edited, question, "--chat-template", "plain", "--ignore-eos")
    assert row["tokens"] == generated_by_transformers(edited, ids, eos_token_id=None)


def most_used_token(directory: Path) -> int:
    ids = generated_by_transformers(directory, chat_ids(directory, "Where?"), 12, eos_token_id=None)
    return max(ids[2:], key=ids.count)


@pytest.mark.parametrize("where", ["config", "text_config_of_config", "generation_config"])
def test_end_tokens_of_every_file_end_a_text(edited, where):
    """transformers 5.23 takes config.json's where generation_config.json is absent; we take all."""
    end = most_used_token(edited)
    ids = generated_by_transformers(edited, chat_ids(edited, "Where?"), eos_token_id=[end, 1])
    (edited / "generation_config.json").unlink(missing_ok=True)
    if where == "generation_config":
        GenerationConfig(eos_token_id=[end, 1]).save_pretrained(edited)
    elif where == "config":
        edit_json(edited / "config.json", eos_token_id=[1, end])
    else:
        edit_json(edited / "config.json", text_config={"eos_token_id": end})
    row, _ = generate(edited, "Where?")
    assert [*row["tokens"], end] == ids and row["finish_reason"] == "stop"


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_a_repetition_penalty_is_that_of_transformers(edited, penalty):
    row, errors = generate(edited, "Where?", "--repetition-penalty", penalty, "--ignore-eos", count=20)
    expected = generated_by_transformers(edited, chat_ids(edited, "Where?"), 20, repetition_penalty=penalty,
                                         eos_token_id=None)
    assert row["tokens"] == expected
    assert row["tokens"] != generate(edited, "Where?", "--ignore-eos", count=20)[0]["tokens"]


def test_what_is_left_out_of_generation_config_is_named_once(edited):
    settings = {"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6, "top_p": 0.95, "suppress_tokens": [5],
                "no_repeat_ngram_size": 3}
    (edited / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = [line for line in generate(edited, "Where?")[1].splitlines() if "generation_config.json" in line]
    assert len(lines) == 1, lines
    for part in ("repetition_penalty 1.3", "do_sample true", "temperature 0.6", "top_p 0.95", "suppress_tokens [5]",
                 "no_repeat_ngram_size 3", "--repetition-penalty"):
        assert part in lines[0], lines
    (edited / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3, "temperature": 0.6}))
    errors = generate(edited, "Where?", "--repetition-penalty", 1.3)[1]
    assert "generation_config.json" not in errors, errors


@pytest.mark.parametrize("kind", ["tokenizer.model", "vocab.json"])
def test_a_directory_without_tokenizer_json_says_what_to_do(edited, kind):
    if kind == "vocab.json":
        AutoTokenizer.from_pretrained(edited)._tokenizer.model.save(str(edited))
    else:
        (edited / kind).write_bytes(b"\n")
    (edited / "tokenizer.json").unlink()
    finished = user_files.run_train(edited)
    assert finished.code == program.BAD_INPUT, finished
    for part in (kind, "save_pretrained", "AutoTokenizer.from_pretrained"):
        assert part in finished.stderr, finished


def test_added_token_objects_are_what_transformers_writes(edited, base):
    """Flags that tokenizer_config.json gives under a name, as version 4 wrote them."""
    edit_json(edited / "tokenizer_config.json",
              eos_token={"__type": "AddedToken", **AddedToken("<|im_end|>", rstrip=True).__getstate__()})
    check(edited, base, differs=False)
