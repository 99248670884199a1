"""Preference CSV files to token ids by transformers' own tokenizer and chat template."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from plain_bipo import TokenPair

SYSTEM_PROMPT = "You are a helpful, honest and concise assistant."
CHATML_END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class TextPair:
    """One row of a preference file."""

    question: str
    chosen: str
    rejected: str


def read_csv(path: str | Path) -> list[TextPair]:
    """The rows of a file with the columns question, matching, not_matching."""
    with open(path, newline="", encoding="utf-8") as file:
        return [TextPair(row["question"], row["matching"], row["not_matching"])
                for row in csv.DictReader(file)]


def tokenize(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[TextPair],
             system_prompt: str = SYSTEM_PROMPT, end_of_turn: str = CHATML_END_OF_TURN) -> list[TokenPair]:
    """Every pair as token ids."""
    return [tokenize_pair(tokenizer, pair, system_prompt, end_of_turn) for pair in pairs]


def tokenize_pair(tokenizer: PreTrainedTokenizerBase, pair: TextPair, system_prompt: str,
                  end_of_turn: str) -> TokenPair:
    """Prompt and answer are tokenised jointly; the shared prompt is what all three sequences begin with.

    Where an answer's first characters merge with the prompt's last, the prompt is thereby shorter than its
    own tokenisation.
    """
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": pair.question})
    prompt_text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = encode(tokenizer, prompt_text)
    sequences = []
    for answer in (pair.chosen, pair.rejected):
        text = prompt_text + rendered_answer(tokenizer, messages, prompt_text, answer, end_of_turn)
        sequences.append(encode(tokenizer, text) + [tokenizer.eos_token_id])
    shared = common_prefix_length([prompt, *sequences])
    return TokenPair(sequences[0][:shared], sequences[0][shared:], sequences[1][shared:])


def rendered_answer(tokenizer: PreTrainedTokenizerBase, messages: list[dict], prompt_text: str, answer: str,
                    end_of_turn: str) -> str:
    """What the template puts between the generation header and the end-of-turn marker."""
    conversation = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    if not text.startswith(prompt_text):
        raise ValueError(f"the rendered conversation does not begin with its own prompt: {text!r}")
    return text[len(prompt_text):text.rindex(end_of_turn)]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of `text` alone, with no BOS or EOS of the tokenizer's making."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text without a chat template, with what the tokenizer itself puts around it."""
    return tokenizer(text)["input_ids"]


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all `sequences` share."""
    length = 0
    for tokens in zip(*sequences):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length
