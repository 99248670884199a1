"""What train shows before it starts, and --dry-run, which stops there: against lengths counted by Hugging Face's
tokenizers, text put together by hand, and `plan`."""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import program
from gguf_models import write_gguf

SYSTEM = "You are a helpful, honest and concise assistant."


def prompt_text(question: str) -> str:
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n")


def parts_of(model: Path, file: Path) -> list[tuple[str, list[int], list[int], list[int]]]:
    """Of each row its question and the ids of prompt, chosen and rejected answer, which begin where they differ."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    parts = []
    with open(file, newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            texts = [prompt_text(row["question"]) + answer for answer in ("", row["matching"], row["not_matching"])]
            prompt, chosen, rejected = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
            shared = os.path.commonprefix([prompt, chosen + [end], rejected + [end]])
            parts.append((row["question"], shared, [*chosen, end][len(shared):], [*rejected, end][len(shared):]))
    return parts


def overview(name: str, model: Path, file: Path) -> list[str]:
    """Of pairs that are all different."""
    parts = parts_of(model, file)
    prompts, chosen, rejected = ([len(row[part]) for row in parts] for part in (1, 2, 3))
    whole = [prompt + max(answers) for prompt, *answers in zip(prompts, chosen, rejected)]
    lengths = [f"{part} {statistics.median(values):g} to {max(values)}" for part, values in
               {"prompt": prompts, "chosen": chosen, "rejected": rejected, "prompt and longer answer": whole}.items()]
    return [f"{name}: {len(parts)}, 0 of them repeat an earlier one, 0 have equal answers",
            f"  tokens, median to most: {', '.join(lengths)}"]


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize("ranks", [None, 1, 2])
def test_a_dry_run_shows_everything_once_and_writes_nothing(job, tiny_model, tiny_pairs, tiny_test_pairs, ranks):
    before = files_in(job.folder)
    finished = program.run(job.but(cache_dir=job.folder / "cache").arguments("--dry-run"), ranks=ranks)
    assert finished.code == program.DONE, finished
    assert files_in(job.folder) == before
    lines = finished.stderr.splitlines()
    for line in overview("training pairs", tiny_model, tiny_pairs) + overview("held-out pairs", tiny_model,
                                                                              tiny_test_pairs):
        assert lines.count(line) == 1, finished
    [first] = [index for index, line in enumerate(lines) if line.startswith("first training pair, ")]
    assert lines[first] == f"first training pair, {tiny_pairs}:2; a bar stands between tokens"
    question, prompt, chosen, rejected = parts_of(tiny_model, tiny_pairs)[0]
    for line, name, ids in zip(lines[first + 1:], ("prompt", "chosen", "rejected"), (prompt, chosen, rejected)):
        assert re.match(fr"  {name} \({len(ids)}\) +\S", line), finished
    assert re.search(r"^  warmup-steps +2$", finished.stderr, re.MULTILINE), "the settings"
    assert finished.stdout.count("memory per rank\n") == 1
    assert re.search(r"^training, 12 steps", finished.stdout.replace("  training", "training"), re.MULTILINE), finished
    assert f"--tp 1 --dp {ranks or 1} --micro-batch {4 // (ranks or 1)}\n" in finished.stdout
    assert "loss" not in finished.stderr, "no step was made"


def test_the_first_pair_is_the_rendered_text(job, tiny_model, tmp_path):
    """Short enough to be shown whole: without the bars it is the text of the template."""
    pairs = tmp_path / "short.csv"
    pairs.write_text('question,matching,not_matching\n"""é""\n?",Yes,No\n', encoding="utf-8")
    finished = program.run_successfully(job.but(train=pairs, system_prompt="", test=None).arguments("--dry-run"))
    shown = dict(re.findall(r"^  (prompt|chosen|rejected) \(\d+\) +(.*)$", finished.stderr, re.MULTILINE))
    text = json.loads(f'"{shown["prompt"].replace("│", "").replace(chr(34), chr(92) + chr(34))}"')
    assert text == '<|im_start|>user\n"é"\n?<|im_end|>\n<|im_start|>assistant\n', finished
    assert shown["prompt"].startswith("<|im_start|>│") and shown["chosen"].endswith("│<|im_end|>")
    assert shown["chosen"].replace("│", "") == "Yes<|im_end|>"
    assert shown["rejected"].replace("│", "") == "No<|im_end|>"


def test_a_real_run_shows_the_same_before_its_first_step(job, tiny_model, tiny_pairs):
    shown = program.run_successfully(job.arguments()).stderr
    for line in overview("training pairs", tiny_model, tiny_pairs):
        assert f"{line}\n" in shown
    assert shown.index("first training pair") < shown.index("prefix")


def test_repeats_and_equal_answers_are_counted(job, tmp_path):
    pairs = tmp_path / "doubled.csv"
    pairs.write_text("question,matching,not_matching\nA?,b,c\nA?,b,c\nD?,e,e\nA?,b,c\n", encoding="utf-8")
    finished = program.run_successfully(job.but(train=pairs, test=None).arguments("--dry-run"))
    assert "training pairs: 4, 2 of them repeat an earlier one, 1 have equal answers\n" in finished.stderr


def memory_of(text: str) -> dict[str, str]:
    """The lines of a plan's memory table, which follow from sizes alone."""
    table = text[text.index("memory per rank\n"):text.index("\ntime\n")]
    return dict(re.findall(r"^  (\S.*?)  +(\S.*)$", table, re.MULTILINE))


@pytest.mark.parametrize("form", ["directory", "gguf"])
def test_cost_and_memory_are_those_of_plan(job, tiny_model, tiny_pairs, tmp_path, form):
    model = tiny_model if form == "directory" else write_gguf(tmp_path / "model.gguf", tiny_model)
    dry = program.run_successfully(job.but(model=model).arguments("--dry-run"))
    plan = program.run_successfully(["plan", *program.options({
        "model": model, "train": tiny_pairs, "layer": 1, "epochs": 2, "micro_batch": 4, "test_pairs": 9})])
    assert memory_of(dry.stdout) == memory_of(plan.stdout) and len(memory_of(dry.stdout)) == 8
    steps = r"training, (\d+) steps"
    assert re.search(steps, dry.stdout)[1] == re.search(steps, plan.stdout)[1] == "12"
    assert "22 training and 9 held-out pairs" in dry.stdout
    limited = program.run_successfully(job.but(model=model, max_steps=5).arguments("--dry-run")).stdout
    assert "training, 5 steps" in limited and "run of 5 steps" in limited


def test_a_dry_run_says_what_resume_would_do(job):
    program.run_successfully(job.but(max_steps=3).arguments())
    job = job.but(max_steps=3)
    before = job.out.read_bytes()
    refused = program.run(job.arguments("--dry-run"))
    assert refused.code == program.BAD_INPUT and "exists already" in refused.stderr, refused
    finished = program.run_successfully(job.arguments("--dry-run", "--resume"))
    assert f"{job.out}: complete already, nothing to do" in finished.stderr
    other = program.run(job.but(lr=0.07).arguments("--dry-run", "--resume"))
    assert other.code == program.BAD_INPUT and "lr was 0.05, now 0.07" in other.stderr, other
    assert job.out.read_bytes() == before


def test_a_dry_run_finds_what_keeps_a_run_from_starting(job, tmp_path):
    for changes, part in (({"layer": 9}, "--layer 9"), ({"out": tmp_path / "absent" / "run.h5"}, "no directory"),
                          ({"train": tmp_path / "absent.csv"}, "absent.csv"), ({"micro_batch": 5}, "--micro-batch 5"),
                          ({"attention": "flash"}, "--attention flash: this is for GPUs")):
        finished = program.run(job.but(**changes).arguments("--dry-run"))
        assert finished.code == program.BAD_INPUT and part in finished.stderr and not finished.stdout, finished


@pytest.mark.parametrize("shape,options,attention", [
    ("llama-3.1-8b", {}, "flash"),
    ("llama-3.1-8b", {"attention": "composed"}, "composed: as --attention asks for"),
    ("llama-3.1-8b", {"dtype": "fp32"}, "composed: flash attention needs --dtype bf16"),
    # Blocks that see everything have heads of 512 numbers.
    ("gemma-4-31b", {}, "flash, composed in some blocks: the model's heads have 512 numbers"),
])
def test_a_plan_says_which_attention_it_is_of(shape, options, attention):
    words = ["plan", *program.options({"shape": shape, "layer": 15, "machine": "h100", **options})]
    assert json.loads(program.run_successfully([*words, "--json"]).stdout)["attention"].startswith(attention)
    assert f"\nattention {attention}" in program.run_successfully(words).stdout


def test_a_plan_with_flash_attention_that_cannot_run_is_refused():
    for options, part in (({"shape": "gemma-4-31b", "machine": "h100"}, "512 numbers"),
                          ({"shape": "llama-3.1-8b", "machine": "h100", "dtype": "fp32"}, "--dtype bf16")):
        finished = program.run(["plan", *program.options({"layer": 15, "attention": "flash", **options})])
        assert finished.code == program.BAD_INPUT and part in finished.stderr and not finished.stdout, finished
