"""Chat templates in the forms that models ship, rendered by bipo-dist and by transformers.

The templates below are written down from the published formats: their wording is what makes a prompt
the one that a model was trained on.
"""

import datetime
import json
import os
import pathlib
import subprocess

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

RENDER_CHAT = pathlib.Path(os.environ["BIPO_BUILD_DIR"]) / "tests" / "reference" / "render_chat"

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>{\"name\": <function-name>}<|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- tool_call.arguments | tojson }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- message.content }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)

# Without system turns: what the text has to be folded into.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The first release of the format ended every rendering with the header.
LLAMA3_FIRST = LLAMA3.replace("{% if add_generation_prompt %}", "").replace("\n\n' }}{% endif %}", "\n\n' }}")


def llama31(date_setting):
    return (
        r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
"""
        + date_setting
        + r"""
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is taken out, so that it goes where it belongs. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message + builtin tools #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' + arg_val + '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
    )


LLAMA31 = llama31(
    r"""{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}"""
)
LLAMA32 = llama31(
    r"""{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}"""
)

CHATML_TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
LLAMA2_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA3_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}

# form: (template, special tokens, family, takes system turns, end-of-turn marker)
FORMS = {
    "chatml": (CHATML, CHATML_TOKENS, "chatml", True, "<|im_end|>"),
    "smollm2": (SMOLLM2, CHATML_TOKENS, "chatml", True, "<|im_end|>"),
    "qwen2.5": (QWEN25, {"bos_token": None, "eos_token": "<|im_end|>"}, "chatml", True, "<|im_end|>"),
    "llama-2": (LLAMA2, LLAMA2_TOKENS, "llama-2", True, "</s>"),
    "mistral": (MISTRAL, LLAMA2_TOKENS, "llama-2", False, "</s>"),
    "llama-3": (LLAMA3, LLAMA3_TOKENS, "llama-3", True, "<|eot_id|>"),
    "llama-3-first": (LLAMA3_FIRST, LLAMA3_TOKENS, "llama-3", True, "<|eot_id|>"),
    "llama-3.1": (LLAMA31, LLAMA3_TOKENS, "llama-3", True, "<|eot_id|>"),
    "llama-3.2": (LLAMA32, LLAMA3_TOKENS, "llama-3", True, "<|eot_id|>"),
}

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


def render_here(directory, requests, *arguments):
    done = subprocess.run(
        [RENDER_CHAT, directory, *arguments],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True, text=True, encoding="utf-8", check=True, timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    return answers[0], answers[1:]


def render_there(template, tokens, messages, add_generation_prompt=True):
    known = {key: value for key, value in tokens.items() if value is not None}
    rendered, _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=add_generation_prompt, **known
    )
    return rendered[0]


@pytest.mark.parametrize("as_file", [False, True], ids=["in-config", "in-file"])
@pytest.mark.parametrize("form", FORMS)
def test_prompts_equal_transformers(form, as_file, tmp_path):
    template, tokens, family, takes_system, _ = FORMS[form]
    write_model(tmp_path, template, tokens, as_file)
    about, answers = render_here(tmp_path, [{"messages": messages} for messages in conversations()])
    assert about["name"] == family
    assert about["takes_system_turn"] is takes_system
    assert len(answers) == len(conversations()) == 50
    for messages, answer in zip(conversations(), answers):
        if messages[0]["role"] == "system" and not takes_system:
            assert "refuses" in answer["error"]
        else:
            assert answer["text"] == render_there(template, tokens, messages)


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_the_assistant_text_up_to_its_marker(form, tmp_path):
    template, tokens, _, _, marker = FORMS[form]
    write_model(tmp_path, template, tokens)
    _, answers = render_here(tmp_path, [{"answer": text} for text in TEXTS])
    prompt = render_there(template, tokens, [user("q")])
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    for text, answer in zip(TEXTS, answers, strict=True):
        whole = render_there(template, tokens, [user("q"), assistant(text)], add_generation_prompt=False)
        assert whole.startswith(prompt)
        tail = whole[len(prompt):].removesuffix(header if form == "llama-3-first" else "").removesuffix("\n")
        assert tail.endswith(marker)
        assert answer["text"] == tail.removesuffix(marker)


def test_implied_system_texts(tmp_path):
    today = datetime.datetime.now().strftime("%d %b %Y")
    expected = {
        "chatml": "",
        "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "llama-2": "",
        "llama-3": "",
        "llama-3.1": "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
        "llama-3.2": f"Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n",
    }
    for form, text in expected.items():
        write_model(tmp_path, *FORMS[form][:2])
        about, _ = render_here(tmp_path, [])
        assert about["implied_system_text"] == text, form


@pytest.mark.parametrize("name, form", [("chatml", "chatml"), ("llama-2", "llama-2"), ("llama-3", "llama-3")])
def test_named_formats_equal_the_plain_forms(name, form, tmp_path):
    template, tokens = FORMS[form][:2]
    write_model(tmp_path, "{{ 'not looked at' }}", tokens)
    # The Llama-2 form writes an empty system block for an empty system text; so does ours.
    requests = [{"messages": messages} for messages in conversations()]
    about, answers = render_here(tmp_path, requests, name)
    assert about["name"] == name
    for messages, answer in zip(conversations(), answers, strict=True):
        assert answer["text"] == render_there(template, tokens, messages)


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
    "{{ messages | first | tojson }}{{ (messages[:1] | last).content }}{{ messages[9] is undefined }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{{ '%}' }}{{ \"}}\" }}{{ '\\u00e9\\x41\\t|' }}{{ {'a': {'b': 'c'}}['a'].b }}",
    "{{- '  lead' -}}  \n  tail{%+ if true +%}\n  kept{% endif %}",
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
