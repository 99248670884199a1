"""Chat templates of the model families, rendered by bipo-dist and by transformers."""

import datetime
import json
import os
import pathlib
import subprocess

import pytest
from transformers.utils import chat_template_utils

from family_templates import CHATML, CHATML_TOKENS, FAMILIES

RENDER_CHAT = pathlib.Path(os.environ["BIPO_BUILD_DIR"]) / "tests" / "reference" / "render_chat"

# Its words differ from its numbers, and its day has one digit.
DAY = datetime.datetime(2023, 3, 5)

TEXTS = [
    "Hello there.",
    "  spaces around  ",
    "\n\nlines\n  and\ttabs\r\n",
    "{{ braces }} {% if x %} {# c #} }} %}",
    "quotes ' \" and \\n backslashes \\",
    "Grüße, 你好, 🙂👩‍👩‍👧, é",
    "\u00a0no-break\u2003and em spaces\u3000\u2028",
    "\x1cseparators\x1f\x85",
    "[INST] <<SYS>> </s> <|eot_id|> <|im_end|>\n<|im_start|>user",
    "x",
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def conversations():
    result = []
    for index, text in enumerate(TEXTS):
        other = TEXTS[(index + 3) % len(TEXTS)]
        third = TEXTS[(index + 7) % len(TEXTS)]
        result.append([user(text)])
        result.append([system(other), user(text)])
        result.append([user(text), assistant(other), user(third)])
        result.append([system(third), user(text), assistant(other), user(text), assistant(third), user(other)])
        result.append([system(""), user(text)])
    return result


def write_model(directory, template, tokens, as_file=False):
    config = {key: {"content": value, "special": True} if key == "eos_token" and value else value
              for key, value in tokens.items()}
    if as_file:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
        config["chat_template"] = "{{ 'the file beside it comes first' }}"
    else:
        config["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def render_here(directory, requests, choice="auto", date="default"):
    done = subprocess.run(
        [RENDER_CHAT, directory, choice, DAY.strftime("%Y-%m-%d"), date],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True, text=True, encoding="utf-8", check=True, timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    return answers[0], answers[1:]


@pytest.fixture(autouse=True)
def today(monkeypatch):
    """transformers' strftime_now on DAY."""

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return DAY

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)


def render_there(template, tokens, messages, add_generation_prompt=True, **variables):
    known = {key: value for key, value in tokens.items() if value is not None}
    rendered, _ = chat_template_utils.render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=add_generation_prompt, **known, **variables
    )
    return rendered[0]


def assert_same_prompts(family, answers, **variables):
    for messages, answer in zip(conversations(), answers, strict=True):
        try:
            expected = render_there(family.template, family.tokens, messages, **variables)
        except Exception as refusal:  # what raise_exception() raises differs by Jinja's version
            assert str(refusal) in answer["error"]
        else:
            assert answer["text"] == expected


@pytest.mark.parametrize("as_file", [False, True], ids=["in-config", "in-file"])
@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_equal_transformers(name, as_file, tmp_path):
    family = FAMILIES[name]
    write_model(tmp_path, family.template, family.tokens, as_file)
    about, answers = render_here(tmp_path, [{"messages": messages} for messages in conversations()])
    assert "error" not in about, about
    assert about["name"] == family.name
    assert about["takes_system_turn"] is family.takes_system
    assert about["prints_date"] is family.prints_date
    assert len(answers) == 50
    assert_same_prompts(family, answers)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_given_date_is_what_transformers_gets_as_date_string(name, tmp_path):
    family = FAMILIES[name]
    write_model(tmp_path, family.template, family.tokens)
    about, answers = render_here(tmp_path, [{"messages": messages} for messages in conversations()],
                                 date="given")
    assert about["prints_date"] is (family.prints_date or name == "llama-3.1")
    assert_same_prompts(family, answers, date_string="05 Mar 2023")


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_the_assistant_text_up_to_its_marker(name, tmp_path):
    family = FAMILIES[name]
    write_model(tmp_path, family.template, family.tokens)
    _, answers = render_here(tmp_path, [{"answer": text} for text in TEXTS])
    for text, answer in zip(TEXTS, answers, strict=True):
        for before in closed_before(family):
            prompt = render_there(family.template, family.tokens, before)
            whole = render_there(family.template, family.tokens, [*before, assistant(text)],
                                 add_generation_prompt=False)
            assert whole == prompt + answer["text"] + family.closing


def closed_before(family):
    """Conversations that an answer continues: one turn, several, and with a system text."""
    talks = [[user("q")], [user("q"), assistant("a"), user("r")]]
    if family.takes_system and family.closed_keeps_system:
        talks += [[system("s"), *talk] for talk in talks]
    return talks


SMOLLM3_METADATA = ("## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 05 March 2023\n"
                    "Reasoning Mode: /think\n\n## Custom Instructions\n\nYou are a helpful AI assistant named "
                    "SmolLM, trained by Hugging Face. Your role as an assistant involves thoroughly exploring "
                    "questions through a systematic thinking process before providing the final precise and "
                    "accurate solutions.\n\n")
IMPLIED = {
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "smollm3": SMOLLM3_METADATA,
    "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "llama-3.1": "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
    "llama-3.2": "Cutting Knowledge Date: December 2023\nToday Date: 05 Mar 2023\n\n",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_implied_system_texts(name, tmp_path):
    write_model(tmp_path, FAMILIES[name].template, FAMILIES[name].tokens)
    about, _ = render_here(tmp_path, [])
    assert about["implied_system_text"] == IMPLIED.get(name, "")


# form: the family whose own template it equals, and whether with several turns after a system text, too
NAMED = {"chatml": "chatml", "gemma": "gemma-3", "llama2": "llama-2", "llama3": "llama-3", "mistral-v1": "mistral-0.1",
         "mistral-v3": "mistral-0.3", "mistral-v3-tekken": "mistral-nemo", "phi3": "phi-3-mini", "phi4": "phi-4",
         "phi4-mini": "phi-4-mini"}


@pytest.mark.parametrize("form, name", NAMED.items())
def test_named_forms_equal_the_families_templates(form, name, tmp_path):
    family = FAMILIES[name]
    write_model(tmp_path, "{{ 'not looked at' }}", family.tokens)
    requests = [{"messages": messages} for messages in conversations()]
    about, answers = render_here(tmp_path, requests, form)
    assert about["name"] == form
    for messages, answer in zip(conversations(), answers, strict=True):
        # Mistral's later templates put the system text into the last user turn, the named forms into the first.
        moves = not family.closed_keeps_system and messages[0]["role"] == "system" and len(messages) > 2
        if not moves:
            assert answer["text"] == render_there(family.template, family.tokens, messages)


def test_a_file_may_hold_the_template(tmp_path):
    family = FAMILIES["qwen3-without-thinking"]
    write_model(tmp_path, "{{ 'not looked at' }}", family.tokens)
    file = tmp_path / "own.jinja"
    file.write_text(family.template, encoding="utf-8", newline="")
    _, answers = render_here(tmp_path, [{"messages": messages} for messages in conversations()], str(file))
    assert_same_prompts(family, answers)


# Pieces of the language, one template per rule, rendered inside a recognised ChatML template.
PIECES = [
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
    "a\n  {% if true %}\n  b\n  {%- endif -%}  \n c\n{# note #}\nd {{ 1 }}\n",
    "{% set ns = namespace(n=0) %}{% for i in range(2, 9, 3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 * 3 - 4 }} {{ 1 ~ 'x' ~ none ~ true }} {{ 1.0 }} {{ 3.5 + 1 }}",
    "{{ 'abcdef'[1:-1] }} {{ 'abcdef'[::-1] }} {{ [1, 2, 3][-1] }} {{ 'grün'[2] }} {{ 'grün' | length }}",
    "{{ {'b': [1, 2.0, none, 'ä\"\\n'], 'a': {}} | tojson }}{{ [1, {'k': []}] | tojson(indent=2) }}",
    "{{ nothing }}|{{ nothing | default('d') }}|{{ '' | default('e', true) }}|{{ nothing is defined }}",
    "{{ 'x' in ['x'] }} {{ 'z' not in 'xyz' }} {{ 'role' in messages[0] }} {{ 1 < 2 <= 2 }} {{ not 1 == 2 }}",
    "{{ ' a b '.strip().split(' ') | join('-') }} {{ 'a,b,c'.split(',', 1)[1] }} {{ 'hello world'.title() }}",
    "{{ 'xxaxx'.strip('x') }} {{ 'aXbX'.replace('X', 'y') }} {{ 'aXbX' | replace('X', 'y', 1) }} {{ 'Ab' | upper }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{{ {'a': 1}.get('z', 5) }}",
    "{% macro f(a, b='B') %}[{{ a }}{{ b }}]{% endmacro %}{{ f('x') }}{{ f(b='y', a='z') }}",
    "{% set t %}{{ 1 + 1 }} cap{% endset %}{{ t | trim }}{% generation %}g{% endgeneration %}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}{{ [1, 2] + [3] == [1, 2, 3] }}{{ 'a' 'b' }}{{ true == 1 }}",
    "{{ 'a' if messages is iterable and messages is not string and messages is not mapping else 'b' }}",
    "{% set turns = [{'role': 'user'}] %}{{ turns | first | tojson }}{{ (turns[:1] | last).role }}{{ turns[9] is undefined }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{{ '%}' }}{{ \"}}\" }}{{ '\\u00e9\\x41\\t|' }}{{ {'a': {'b': 'c'}}['a'].b }}",
    "{% set t = [{'r': 'a'}, {'r': 'b', 'c': {'d': 1}}] %}{{ (t | selectattr('r', 'equalto', 'b') | list)[-1] == t[-1] }}{{ [0, 1, 2] | select | list | length }}",
    "{{ ['a', 'b'] | reject('in', 'xb') | join }}{{ ([{'r': 'a'}, {'s': 1}] | rejectattr('r', 'eq', 'a') | list) | tojson }}",
    "{{ strftime_now('%A %d. %B %Y, %a %b %j %y %m %H:%M:%S %% %e %F %D %-d %-m %U %W %u %w %G-W%V %I %p') }}",
    "{{- '  lead' -}}  \n  tail{%+ if true +%}\n  kept{% endif %}",
    "{{ '42' | int + 1 }} {{ ' -7 ' | int }} {{ '3.9' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ -2.7 | int }} {{ '1_0' | int }} {{ '_1' | int(3) }} {{ none | int }} {{ true | int }} {{ '' | int }} {{ '+' | int }} {{ '+4' | int }} {{ '+-4' | int }} {{ '1e3' | int }}",
    "{{ '2.50' | float }} {{ 3 | float }} {{ 'y' | float(1.5) if false else 'z' }} {{ -3 | abs }} {{ -3.5 | abs }} {{ none | float }} {{ '.5' | float }}",
    "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 7 | round }} {{ 2.1 | round(0, 'ceil') }} {{ 2.19 | round(1, 'floor') }} {{ 42.55 | round(1) | int }}",
    "{{ [{'n': 'a', 'd': {'k': 1}}, {'n': 'b', 'd': {'k': 2}}] | map(attribute='n') | join('+') }} {{ [{'d': {'k': 1}}, {'d': {'k': 2}}] | map(attribute='d.k') | sum }} {{ ['x', 'Y'] | map('upper') | join }} {{ [{}, {'a': 1}] | map(attribute='a', default='-') | join }} {{ ['aXb', 'X'] | map('replace', 'X', 'y') | join(',') }}",
    "{{ ['b', 'A', 'c', 'a'] | sort | join }} {{ ['b', 'A', 'c', 'a'] | sort(case_sensitive=true) | join }} {{ [3, 1, 2] | sort(reverse=true) | join }} {{ [{'k': 2, 'v': 'x'}, {'k': 1, 'v': 'y'}] | sort(attribute='k') | map(attribute='v') | join }}",
    "{{ ['a', 'B', 'A', 'b', 1, 1.0, true] | unique | join(',') }} {{ [3, 1, 2] | reverse | join }} {{ 'grün' | reverse }} {{ [1, 2, 3.5] | sum }} {{ [] | sum }} {{ [{'p': 1}, {'p': 2}] | sum(attribute='p', start=10) }} {{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ ['b', 'A'] | min }} {{ [['k', 1], ['l', 2]] | map(attribute=1) | join }}",
    "{{ 'one\ntwo\n\nthree' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(width=1, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ 'a\n' | indent(3) }}|{{ '' | indent(2, true) }}",
    "{{ 'grünes Gras'.find('s') }} {{ 'abc'.find('z') }} {{ 'grün grün'.rfind('g') }} {{ 'banana'.count('an') }} {{ 'aaa'.count('aa') }} {{ 'äb'.count('') }} {{ 'a\nb\r\nc\x0bd\u2028e\n'.splitlines() | join('/') }} {{ ', '.join(['a', 'b']) }} {{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}{{ 'x'.removesuffix('') }}",
    "{{ '{} and {}'.format('a', 1) }} {{ '{1}{0}{1}'.format('x', 'y') }} {{ '{name}: {{}} {n}'.format(name='k', n=2.0) }} {{ '%s is %d%%' | format('x', 7) }} {{ '%d' | format(3.9) }}",
    "{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 1 is lt 2 }}{{ 2 is ge(2) }}{{ 2 is le 1 }}{{ 'b' is gt 'a' }} {{ [1, 5, 9] | select('gt', 4) | join(',') }} {{ range(5) | reject('odd') | join }}",
    "{% filter upper %}shout {{ 'now' }}{% endfilter %}{% filter replace('a', 'b') | trim %} banana {% endfilter %}|{% filter indent(2) %}x\ny{% endfilter %}",
    "{% for i in range(3) %}{{ i }}{% filter upper %}a{% if i == 1 %}{% break %}{% endif %}{% endfilter %}{% endfor %}|{% set t = 'old' %}{% for i in range(3) %}{% set t %}new{% if i == 1 %}{% continue %}{% endif %}{% endset %}{{ t }}{{ i }}{% endfor %}",
]


@pytest.mark.parametrize("piece", PIECES)
def test_language_equals_jinja2(piece, tmp_path):
    """The piece's output becomes the implied system turn, where it can be seen."""
    template = (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n' }}" + piece
        + "<|im_end|>\n{{ '' }}{% endif %}" + CHATML
    )
    write_model(tmp_path, template, CHATML_TOKENS)
    messages = [user("q")]
    about, answers = render_here(tmp_path, [{"messages": messages}])
    assert "error" not in about, about
    assert answers[0]["text"] == render_there(template, CHATML_TOKENS, messages)
