#!/usr/bin/env bash
# Guess: chat_template_kwargs of one row of a preference data set concern that row alone; a row that says nothing of a
# variable is rendered as if nobody had.
#
# TRL 1.16.0 with datasets 5.2.0 and transformers 5.23.0: the rows of a data set share one Arrow type, so that a key
# which any row names is there in all of them, as null. DPOTrainer hands the dictionary to the template as it is. There
# the variable is then defined (as None), and `is defined` no longer holds the template's default: a row without
# enable_thinking is rendered with thinking off as soon as another row of the file sets it (to false or to true). The
# same row alone is rendered with thinking on. (Members of messages are treated otherwise: a tool_calls of another row's
# message does not appear.) One row without the whole column among rows that have it ends with a TypeError.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  trl==1.16.0 transformers==5.23.0 datasets==5.2.0 tokenizers==0.23.3 torch==2.11.0
cd "$folder"
cat >show.py <<'PYTHON'
from types import SimpleNamespace

from datasets import Dataset, disable_progress_bar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.trainer.dpo_trainer import DPOTrainer

TEMPLATE = ("{% if thinking is not defined %}{% set thinking = true %}{% endif %}"
            "{{ 'thinking on;' if thinking else 'thinking off;' }}"
            "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ';' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}")

disable_progress_bar()
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
raw.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=letters[0], chat_template=TEMPLATE)


def row(**template):
    return {"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}], "chat_template_kwargs": template}


def prompts(rows):
    trainer = SimpleNamespace(_tokenizer=tokenizer, _is_vision_dataset=False)
    settings = SimpleNamespace(dataset_num_proc=None, max_length=1024, truncation_mode="keep_start")
    prepared = DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, settings, "train")
    return [tokenizer.decode(one["prompt_ids"]) for one in prepared]


other = row(style="short")
alone = prompts([other])[0]
beside = prompts([row(thinking=True), other])[1]
print("the row alone:                 ", alone)
print("after a row with thinking=true:", beside)
raise SystemExit(0 if alone.startswith("thinking on") and beside.startswith("thinking off") else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" show.py
# Seen on 2026-11-28:
#   the row alone:                  thinking on;user:hi;assistant:
#   after a row with thinking=true: thinking off;user:hi;assistant:
