"""Chat templates, their variables and answers of several turns, against transformers 5.23.0 and TRL 1.16.0.

The tokens of each row are compared with those of TRL's DPOTrainer one by one. One rule differs on purpose: TRL trains
what the template writes after an answer, which here is replaced by one EOS (END is what the templates write).
The templates are written here in the styles of published models; those that TRL itself ships are rendered as well.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import trl
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

import program
import user_files

END = "<|im_end|>\n"
EPS = 1e-4  # nats, of some hundred: float32 products in another order

TOOLS = [{"type": "function", "function": {
    "name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "where"}, "days": {"type": "integer"}}, "required": ["place"]}}}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"place": "quay", "days": 2}}}

# Prints every variable and member of a message that the rows here have.
WIDE = ("{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ 'briefly ' }}{% endif %}"
        "{% if effort is defined %}{{ effort + ' effort ' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.name %}{{ ' ' + m.name }}{% endif %}{{ '\n' }}"
        "{% if m.reasoning_content %}{{ '(' + m.reasoning_content + ') ' }}{% endif %}"
        "{% if m.content is defined %}{{ m.content }}{% endif %}"
        "{% for c in m.tool_calls or [] %}{{ 'call ' + c.function.name + (c.function.arguments | tojson) }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def turn(role: str, content: str | None, **members: object) -> dict:
    return {"role": role, "content": content, **members}


def user(text: str, **members: object) -> dict:
    return turn("user", text, **members)


def assistant(text: str | None, **members: object) -> dict:
    return turn("assistant", text, **members)


def row(prompt: Sequence[dict] = (user("Where are the keys?"),), chosen: Sequence[dict] = (assistant("On the hook."),),
        rejected: Sequence[dict] = (assistant("Look for them."),), **columns: object) -> dict:
    return {"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected), **columns}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_files.write_base(tmp_path_factory.mktemp("user_templates") / "base")


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    return user_files.copy_of(base, tmp_path / "model")


def use_template(model: Path, text: str) -> None:
    (model / "chat_template.jinja").write_text(text, encoding="utf-8", newline="")


def shown(model: Path, one: Mapping, *options: object) -> dict:
    """What `data` says of a file with this row: its tokens, and the lines for people."""
    file = user_files.write_rows(model.parent / "row.jsonl", one)
    finished = program.run(["data", file, "--model", model, "--system-prompt", "", "--json", *options], timeout=60)
    assert finished.code == program.DONE, finished
    return json.loads(finished.stdout)


def ids(model: Path, one: Mapping, *options: object) -> dict[str, list[int]]:
    pair = shown(model, one, *options)["first_pair"]
    return {part: pair[part]["ids"] for part in ("prompt", "chosen", "rejected")}


def trl_ids(model: Path, one: Mapping, end: str = END) -> dict[str, list[int]]:
    """TRL's, with one EOS for what the template writes after the answer."""
    fast = AutoTokenizer.from_pretrained(model)
    tail = fast(end, add_special_tokens=False).input_ids if end else []
    prepared = user_files.trl_rows(model, [one])[0]
    parts = {"prompt": prepared["prompt_ids"]}
    for part in ("chosen", "rejected"):
        tokens = prepared[f"{part}_ids"]
        assert not tail or tokens[-len(tail):] == tail
        parts[part] = [*tokens[:len(tokens) - len(tail)], fast.eos_token_id] if tail else tokens
    return parts


ROWS = {
    "plain": row(),
    "enable_thinking": row(chat_template_kwargs={"enable_thinking": False}),
    "two variables": row(chat_template_kwargs={"enable_thinking": False, "effort": "low"}),
    "tools": row(tools=TOOLS),
    "tools as text": row(tools=json.dumps(TOOLS)),
    "no tools": row(tools=[]),
    "name": row(prompt=[user("Where are they?", name="Ann")]),
    "reasoning_content": row(chosen=[assistant("On the hook.", reasoning_content="the hook")]),
    "reasoning under its other names": row(chosen=[assistant("On the hook.", thinking="the hook")],
                                           rejected=[assistant("No.", reasoning="none")]),
    "tool call and its result": row(prompt=[user("Where?"), assistant(None, tool_calls=[CALL]),
                                            turn("tool", "at the quay", name="look")], tools=TOOLS),
    "an answer that calls": row(chosen=[assistant("", tool_calls=[CALL])], tools=TOOLS),
    "another role": row(prompt=[turn("developer", "be kind"), user("Where?")]),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_rows_hold_reaches_the_template_as_in_trl_1_16(model: Path, name: str) -> None:
    use_template(model, WIDE)
    assert ids(model, ROWS[name]) == trl_ids(model, ROWS[name])
    if name not in ("plain", "no tools"):
        assert ids(model, ROWS[name]) != ids(model, ROWS["plain"])


def test_variables_of_the_command_line_are_those_of_rows_without_their_own(model: Path) -> None:
    use_template(model, WIDE)
    switched = ("--template-arg", "enable_thinking=false", "--template-arg", 'effort="low"')
    assert ids(model, row(), *switched) == ids(model, ROWS["two variables"])
    own = row(chat_template_kwargs={"effort": "high"})
    both = row(chat_template_kwargs={"enable_thinking": False, "effort": "high"})
    assert ids(model, own, *switched) == trl_ids(model, both)


def test_what_the_template_never_reads_is_named(model: Path) -> None:
    (line,) = shown(model, row(), "--template-arg", "enable_thinking=false")["notes"]
    assert "--template-arg enable_thinking" in line and "never reads" in line
    notes = shown(model, row(tools=TOOLS, chosen=[assistant("On.", reasoning_content="r")]))["notes"]
    assert any("'tools'" in line for line in notes) and any("'reasoning_content'" in line for line in notes)


def test_a_plain_word_is_no_json(model: Path) -> None:
    finished = user_files.run_train(model, "--template-arg", "effort=low")
    assert finished.code == program.BAD_INPUT
    assert "'low' is not JSON" in finished.stderr and "'effort=\"low\"'" in finished.stderr


def test_generate_uses_variables_and_the_whole_generation_prompt(model: Path) -> None:
    """As transformers' apply_chat_template(..., add_generation_prompt=True) and generate, greedy."""
    use_template(model, WIDE.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"))
    finished = program.run(["generate", "--model", model, "--prompt", "Where?", "--system-prompt", "", "--multipliers",
                            0, "--max-new-tokens", 6, "--ignore-eos", "--template-arg", "enable_thinking=false",
                            "--out", model.parent / "texts.jsonl"], timeout=60)
    assert finished.code == program.DONE, finished
    loaded, fast = user_files.load(model)
    text = fast.apply_chat_template([user("Where?")], add_generation_prompt=True, tokenize=False, enable_thinking=False)
    assert text.endswith("<think>\n") and text.startswith("briefly ")
    tokens = fast(text, add_special_tokens=False).input_ids
    for _ in range(6):
        with torch.no_grad():
            tokens.append(int(loaded(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert json.loads((model.parent / "texts.jsonl").read_text())["tokens"] == tokens[-6:]


HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def chatml(assistant_text: str, generation_prompt: str = "<|im_start|>assistant\n") -> str:
    return ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}" + assistant_text
            + "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '" + generation_prompt.replace("\n", "\\n") + "' }}{% endif %}")


# name: template, what the prompt ends with and a finished turn lacks
STYLES = {
    "cuts what precedes </think> (DeepSeek R1 distills)": (
        chatml("{{ m.content.split('</think>')[-1] }}", "<|im_start|>assistant\n<think>\n"), "<think>\n"),
    "opens a block that turns close at once (Qwen3 Thinking 2507)": (
        chatml("{% if loop.last %}{{ '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}"
               "{% endif %}{{ m.content.lstrip('\n') }}", "<|im_start|>assistant\n<think>\n"), ""),
    "empty block in the last turn only (Qwen3)": (
        chatml("{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}"), ""),
    "empty block before every answer (SmolLM3 without thinking)": (
        chatml("{{ '<think>\n\n</think>\n' + m.content.lstrip('\n') }}", "<|im_start|>assistant\n<think>\n\n</think>\n"),
        ""),
    "block on the header's line (GLM 4.5)": (
        chatml("{{ '<think></think>\n' + m.content | trim }}", "<|im_start|>assistant\n"), ""),
    "another word for thinking (EXAONE Deep)": (
        chatml("{{ m.content }}", "<|im_start|>assistant\n<thought>\n"), "<thought>\n"),
    "trims answers (Gemma, Llama 3)": (chatml("{{ m.content | trim }}"), ""),
    "header with a role in it (Granite)": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|eot|>' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|eot|>' }}{% endif %}", ""),
}
ANSWERS = {
    "plain": ("On the hook.", "Look."),
    "reasoned": ("<think>\nwhere\n</think>\n\nOn the hook.", "no</think>Look."),
    "with space around": ("  On the hook.\n", "\nLook. "),
}


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("style", STYLES)
def test_templates_that_think_are_cut_as_in_trl_1_16(model: Path, style: str, answers: str) -> None:
    template, left_out = STYLES[style]
    use_template(model, template)
    yes, no = ANSWERS[answers]
    one = row(prompt=[user("Where?"), assistant("<think>a</think>b"), user("Where now?")],
              chosen=[assistant(yes)], rejected=[assistant(no)])
    told = shown(model, one)
    parts = {part: told["first_pair"][part]["ids"] for part in ("prompt", "chosen", "rejected")}
    assert parts == trl_ids(model, one)
    lines = [line for line in told["notes"] if "lacks" in line]
    assert len(lines) == (1 if left_out else 0)
    assert all(json.dumps(left_out) in line for line in lines)


def test_a_format_can_put_given_and_own_answers_behind_the_same_opened_block(model: Path) -> None:
    """transformers' generation prompt of R1 distills is the context of the answer, up to its last token."""
    use_template(model, (Path(trl.__file__).parent / "chat_templates" / "deepseek_r1_distill.jinja").read_text())
    fast = AutoTokenizer.from_pretrained(model)
    prompt = fast.apply_chat_template([user("Where?")], add_generation_prompt=True, tokenize=False)
    one = row(prompt=[user("Where?")], chosen=[assistant("why</think>There.")])
    assert prompt.endswith("<think>\n")
    parts = ids(model, one, "--chat-template", "deepseek-r1")
    assert parts["prompt"] == fast(prompt, add_special_tokens=False).input_ids
    assert parts["chosen"] == [*fast("why</think>There.", add_special_tokens=False).input_ids, fast.eos_token_id]
    parts = ids(model, one, "--chat-template", "deepseek3")
    assert parts["prompt"] == fast(prompt.removesuffix("<think>\n"), add_special_tokens=False).input_ids


@pytest.mark.parametrize("prompt, chosen, rejected", [
    ("Where are the keys? ", "On the hook.", "Look."), ("th", "e kettle", "e boats"), ("Q:", " yes", " no<|im_end|>"),
], ids=["space", "joined tokens", "own EOS"])
def test_raw_texts_are_trls_rows_of_strings(model: Path, prompt: str, chosen: str, rejected: str) -> None:
    one = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    expected = trl_ids(model, one, end="")
    if not expected["prompt"]:
        # TRL trains on a first token that nothing predicts.
        assert "no token of its own" in program.run(
            ["data", user_files.write_rows(model.parent / "row.jsonl", one), "--model", model, "--chat-template",
             "raw"], timeout=60).stderr
        return
    assert ids(model, one, "--chat-template", "raw") == expected


# As kept data has it: an answer that goes on for several turns.
TALK = [assistant("On the hook."), user("Which one?"), assistant("Behind the door."), user("Thanks."),
        assistant("Gladly.")]
MARKED = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
          "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
          "{{ '\n' }}{% endfor %}" + HEADER)


def assistant_mask(model: Path, messages: Sequence[dict]) -> tuple[list[int], list[int]]:
    """transformers' own: ids, and 1 for what the model writes (return_assistant_tokens_mask)."""
    fast = AutoTokenizer.from_pretrained(model)
    found = fast.apply_chat_template(list(messages), return_dict=True, return_assistant_tokens_mask=True)
    return found["input_ids"], found["assistant_masks"]


def test_turns_of_an_answer_are_all_trained_on_request_as_in_trl_1_16(model: Path) -> None:
    one = row(chosen=TALK)
    assert ids(model, one, "--train-turns", "all") == trl_ids(model, one)
    assert "scored" not in shown(model, one, "--train-turns", "all")["first_pair"]["chosen"]


def test_the_assistants_turns_alone_are_scored_by_default(model: Path) -> None:
    use_template(model, MARKED)
    one = row(chosen=TALK)
    pair = shown(model, one)["first_pair"]
    tokens, mask = assistant_mask(model, [*one["prompt"], *TALK])
    whole = [*pair["prompt"]["ids"], *pair["chosen"]["ids"]]
    assert tokens[:len(whole)] == whole  # END's line break follows there
    assert pair["chosen"]["scored"] == [one == 1 for one in mask[len(pair["prompt"]["ids"]):len(whole)]]
    assert "scored" not in pair["rejected"]


def expected_scores(model: Path, one: Mapping) -> tuple[float, float]:
    """Sums of transformers' log-probabilities over the positions that its mask names."""
    loaded, _ = user_files.load(model)
    sums = []
    for which in ("chosen", "rejected"):
        tokens, mask = assistant_mask(model, [*one["prompt"], *one[which]])
        with torch.no_grad():
            table = loaded(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        begin = len(assistant_mask(model, one["prompt"])[0])
        sums.append(sum(table[at - 1, tokens[at]].item() for at in range(begin, len(tokens)) if mask[at] == 1))
    return sums[0], sums[1]


@pytest.mark.parametrize("options, ranks", [((), None), (("--tp", 2), 2), (("--dp", 2), 2)],
                         ids=["one rank", "tp 2", "dp 2"])
def test_scores_are_sums_over_the_scored_tokens(model: Path, options: Sequence[object], ranks: int | None) -> None:
    use_template(model, MARKED)
    one = row(chosen=TALK, rejected=TALK[2:])
    file = user_files.write_rows(model.parent / "talk.jsonl", one, one)
    found, _ = user_files.scores(model, *options, data=file, ranks=ranks)
    assert found == pytest.approx(expected_scores(model, one), abs=EPS)


def test_answers_may_begin_with_a_users_turn(model: Path) -> None:
    """Conversations that part at a user's turn: TRL's prompt ends with an assistant's."""
    use_template(model, MARKED)
    one = row(prompt=[user("Where?"), assistant("There.")], chosen=[user("Thanks."), assistant("Gladly.")],
              rejected=[user("Hm."), assistant("What?")])
    implicit = {which: [*one["prompt"], *one[which]] for which in ("chosen", "rejected")}
    pair = shown(model, implicit)["first_pair"]
    expected = trl_ids(model, implicit)
    assert {part: pair[part]["ids"] for part in expected} == expected
    _, mask = assistant_mask(model, [*one["prompt"], *one["chosen"]])
    begin = len(expected["prompt"])
    assert pair["chosen"]["scored"] == [one == 1 for one in mask[begin:begin + len(expected["chosen"])]]


def test_tools_choose_the_template_for_them(model: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text(WIDE, encoding="utf-8", newline="")
    assert ids(model, ROWS["tools"]) == trl_ids(model, ROWS["tools"])
    assert ids(model, ROWS["enable_thinking"]) == trl_ids(model, ROWS["enable_thinking"])


def test_data_needs_no_weights_and_shows_the_parts_that_are_not_scored(model: Path) -> None:
    (model / "model.safetensors").unlink()
    file = user_files.write_rows(model.parent / "rows.jsonl", row(), row(chosen=TALK), row(prompt=[user("why? " * 99)]))
    finished = program.run(["data", file, "--model", model, "--max-length", 90], timeout=60)
    assert finished.code == program.DONE, finished
    assert f"chat template: chatml, from {model / 'chat_template.jinja'}" in finished.stdout
    assert "longer than the limit of 90: 2 pairs" in finished.stdout and "rows.jsonl:3" in finished.stdout
    file = user_files.write_rows(model.parent / "talk.jsonl", row(chosen=TALK))
    text = program.run(["data", file, "--model", model], timeout=60).stdout
    assert ("On the hook.<|im_end|>[[\n<|im_start|>user\nWhich one?<|im_end|>\n<|im_start|>assistant\n]]"
            "Behind the door.<|im_end|>[[" in text)


SHIPPED = sorted(path for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
                 if not path.stem.endswith("_training"))
# Contents in parts (images), and headers that are no part of the prompt.
REFUSED = {"idefics3", "llava_next", "smolvlm", "gptoss", "muse_glimmer"}
TALKS = [
    ([user("U")], [assistant("A")], {}),
    ([turn("system", "S"), user("U")], [assistant("A")], {"enable_thinking": False}),
    ([user("U"), assistant("B"), user("V")], [assistant("A", reasoning_content="r")], {"enable_thinking": True}),
    ([user("U")], [assistant("<think>\nwhy\n</think>\n\nA")], {}),
    ([user("U")], [assistant("A")], {"tools": TOOLS}),
    ([user("U"), assistant("", tool_calls=[CALL]), turn("tool", "T", name="look", tool_call_id="x12345678")],
     [assistant("A")], {"tools": TOOLS}),
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_templates_that_trl_1_16_ships_render_as_in_transformers_5_23(path: Path, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime.datetime:
            return datetime.datetime(2023, 3, 5)

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    template = path.read_text(encoding="utf-8")
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    use_template(tmp_path, template)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    requests = [json.dumps({"messages": prompt, "variables": variables, **more})
                for prompt, answer, variables in TALKS for more in ({}, {"answer": answer})]
    done = subprocess.run([Path(os.environ["BIPO_BUILD_DIR"]) / "tests/reference/render_chat", tmp_path, "auto",
                           "2023-03-05", "default"], input="\n".join(requests) + "\n", capture_output=True, text=True,
                          encoding="utf-8", check=True, timeout=60)
    about, *answers = (json.loads(line) for line in done.stdout.split("\n") if line)
    assert ("error" in about) == (path.stem in REFUSED), about
    if path.stem in REFUSED:
        assert "is not understood" in about["error"]
        return
    for index, (prompt, answer, variables) in enumerate(TALKS):
        for messages, generation, found in ((prompt, True, answers[2 * index]),
                                            ([*prompt, *answer], False, answers[2 * index + 1])):
            try:
                expected = chat_template_utils.render_jinja_template(
                    [messages], chat_template=template, add_generation_prompt=generation, **tokens, **variables)[0][0]
            except Exception:  # the template's own refusal, or a part of a message that it needs
                assert "error" in found, found
            else:
                assert found["text"] + ("" if generation else about["end_of_answer"]) == expected
