#!/usr/bin/env bash
# Guess: DPOConfig(loss_type="sigmoid", label_smoothing=0.3) trains conservative DPO, (1 - 0.3) (-log sigma(z)) + 0.3
# (-log sigma(-z)), as it did in TRL 0.9.6 and still does for the same loss in CPOTrainer; if the
# combination were no longer served, DPOConfig would refuse it.
#
# TRL 1.16.0 with transformers 5.23.0: label_smoothing concerns the losses "robust" and "exo_pair" alone. With the
# default loss it is read past without a warning: loss and gradient are those of 0. Whoever ports a run with smoothed
# labels gets plain DPO. (The help text of the setting names the two losses; nothing is said at run time.) CPOTrainer's
# sigmoid loss is smoothed.
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
import warnings

import torch
from datasets import Dataset, disable_progress_bar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

disable_progress_bar()
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
raw.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=letters[0], pad_token=letters[1])
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=2, num_key_value_heads=2)).save_pretrained("tiny")
rows = Dataset.from_list([{"prompt": "Tea?", "chosen": " Yes, with joy.", "rejected": " No."}] * 2)


def loss_of_second_step(loss_type, smoothing):
    """The first step's loss is log 2 whatever the smoothing; the second one's depends on it."""
    settings = DPOConfig(output_dir="out", loss_type=[loss_type], label_smoothing=smoothing, max_steps=2,
                         learning_rate=1e-2, per_device_train_batch_size=2, logging_steps=1, report_to=[],
                         save_strategy="no", use_cpu=True, bf16=False,
                         lr_scheduler_type="constant", disable_tqdm=True, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = DPOTrainer(model=LlamaForCausalLM.from_pretrained("tiny"), args=settings, train_dataset=rows,
                             processing_class=tokenizer)
        trainer.train()
    named = [str(one.message) for one in caught if "smoothing" in str(one.message)]
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1], named


found = {(kind, amount): loss_of_second_step(kind, amount)
         for kind in ("sigmoid", "robust") for amount in (0.0, 0.3)}
for (kind, amount), (loss, named) in found.items():
    print(f"{kind}, label_smoothing {amount}: loss {loss:.4f}; warnings of smoothing: {len(named)}")
ignored = found["sigmoid", 0.0] == found["sigmoid", 0.3] and not found["sigmoid", 0.3][1]
served = found["robust", 0.0][0] != found["robust", 0.3][0]
raise SystemExit(0 if ignored and served else 1)
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" show.py
# Seen on 2026-11-30:
#   sigmoid, label_smoothing 0.0: loss 0.4270; warnings of smoothing: 0
#   sigmoid, label_smoothing 0.3: loss 0.4270; warnings of smoothing: 0
#   robust, label_smoothing 0.0: loss 0.4270; warnings of smoothing: 0
#   robust, label_smoothing 0.3: loss -0.0453; warnings of smoothing: 0
