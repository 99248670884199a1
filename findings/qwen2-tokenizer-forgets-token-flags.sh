#!/usr/bin/env bash
# Guess: a flag of an added token (rstrip: the token takes the white space after it) that tokenizer.json and
# tokenizer_config.json both give holds in whatever class the tokenizer is loaded.
#
# transformers 5.23.0 with tokenizers 0.23.3: where the directory's config.json says model_type qwen2, AutoTokenizer
# makes a Qwen2Tokenizer of it, whatever tokenizer_class names, and a token that is also eos_token (or another named
# token) is added again without flags. White space after it then becomes tokens of its own, so that prompts get other
# ids than in 4.57.6, and than in 5.23.0 for the same files beside a config.json of llama. No warning says so.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for release in 4.57.6 5.23.0; do
  python3 -m venv "$folder/$release"
  "$folder/$release/bin/pip" install --quiet --disable-pip-version-check "transformers==$release"
done
"$folder/5.23.0/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cd "$folder"
cat >write.py <<'PYTHON'
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.add_special_tokens([AddedToken("<|end|>", normalized=False, rstrip=True)])
flags = {"content": "<|end|>", "lstrip": False, "normalized": False, "rstrip": True, "single_word": False,
         "special": True}
for kind in ("qwen2", "llama"):
    directory = Path(kind)
    directory.mkdir()
    made.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": kind}))
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>",
         "added_tokens_decoder": {str(made.token_to_id("<|end|>")): flags}}))
PYTHON
cat >show.py <<'PYTHON'
import sys

from transformers import AutoTokenizer

read = AutoTokenizer.from_pretrained(sys.argv[1])
print(type(read).__name__, read.convert_ids_to_tokens(read("<|end|>  b", add_special_tokens=False).input_ids))
PYTHON
"$folder/5.23.0/bin/python" write.py
export HF_HUB_OFFLINE=1
old=$("$folder/4.57.6/bin/python" show.py qwen2 2>/dev/null)
new=$("$folder/5.23.0/bin/python" show.py qwen2 2>/dev/null)
other=$("$folder/5.23.0/bin/python" show.py llama 2>/dev/null)
printf 'qwen2 in 4.57.6: %s\nqwen2 in 5.23.0: %s\nllama in 5.23.0: %s\n' "$old" "$new" "$other"
[[ ${old#* } == "['<|end|>', 'b']" && ${other#* } == "['<|end|>', 'b']" && ${new#* } != "['<|end|>', 'b']" ]]
# Seen on 2026-11-28:
#   qwen2 in 4.57.6: PreTrainedTokenizerFast ['<|end|>', 'b']
#   qwen2 in 5.23.0: Qwen2Tokenizer ['<|end|>', 'Ġ', 'Ġ', 'b']
#   llama in 5.23.0: TokenizersBackend ['<|end|>', 'b']
