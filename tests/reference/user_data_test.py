"""Data files as people publish and keep them, against the libraries that define them.

Each published form is written by hand here, row by row. What it must mean is said as rows with an explicit prompt,
which are scored by the same program, and by transformers 5.23.0 where the rows are plain pairs. The split into prompt
and answers is TRL 1.16.0's own (extract_prompt, DPOTrainer). Parquet files, saved data sets and their splits are
written by pyarrow 26.0.1 and datasets 5.2.0.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import h5py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trl.data_utils import extract_prompt

import program
import user_files

(KEYS, KEYS_YES, KEYS_NO), (PLANT, PLANT_YES, PLANT_NO) = user_files.PAIRS
PAIRS = user_files.PAIRS
EPS = 1e-6


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def explicit(prompt: Sequence[dict], chosen: str, rejected: str) -> dict:
    return {"prompt": list(prompt), "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


PLAIN = [explicit([user(question)], yes, no) for question, yes, no in PAIRS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_files.write_base(tmp_path_factory.mktemp("user_data") / "base")


class Files:
    """Scores data files in a folder of their own."""

    def __init__(self, base: Path, folder: Path):
        self.base, self.folder = base, folder
        self.stderr = ""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def lines(self, *rows: dict, name: str = "rows.jsonl") -> Path:
        return user_files.write_rows(self.folder / name, *rows)

    def table(self, header: str, *rows: Sequence[str], name: str = "rows.csv", delimiter: str = ",") -> Path:
        with open(self.folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows([header.split(","), *rows])
        return self.folder / name

    def scores(self, data: Path, *options: object, test: Path | None = None) -> tuple[float, float]:
        found, self.stderr = user_files.scores(self.base, *options, data=data, test=test)
        return found

    def refusal(self, data: Path, *options: object) -> str:
        finished = user_files.run_train(self.base, *options, data=data)
        assert finished.code == program.BAD_INPUT, finished
        return finished.stderr


@pytest.fixture
def files(base: Path, tmp_path: Path) -> Files:
    return Files(base, tmp_path)


@pytest.fixture(scope="module")
def plain_scores(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """The two pairs, which transformers 5.23.0 scores alike."""
    files = Files(base, tmp_path_factory.mktemp("plain"))
    ours = files.scores(files.lines(*PLAIN))
    assert ours == pytest.approx(user_files.transformers_scores(base), abs=2e-4)
    return ours


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(turns))


FORMS = {
    "question/matching/not_matching": [dict(question=q, matching=y, not_matching=n) for q, y, n in PAIRS],
    "Anthropic evals": [dict(question=q, statement="-", label_confidence=0.9, answer_matching_behavior=y,
                             answer_not_matching_behavior=n) for q, y, n in PAIRS],
    "prompt/chosen/rejected": [dict(prompt=q, chosen=y, rejected=n) for q, y, n in PAIRS],
    "prompt_arr/chosen_arr/rejected_arr": [
        dict(prompt_arr=[user(q)], chosen_arr=[assistant(y)], rejected_arr=[assistant(n)]) for q, y, n in PAIRS],
    "conversations with a common beginning": [
        dict(chosen=[user(q), assistant(y)], rejected=[user(q), assistant(n)]) for q, y, n in PAIRS],
    "prompt beside whole conversations (UltraFeedback)": [
        dict(prompt=q, prompt_id="7", chosen=[user(q), assistant(y)], rejected=[user(q), assistant(n)],
             messages=[user(q), assistant(y)], score_chosen=8.0, score_rejected=2.5) for q, y, n in PAIRS],
    "HH-RLHF transcripts": [dict(chosen=dialogue(q, y), rejected=dialogue(q, n)) for q, y, n in PAIRS],
    "question/chosen/rejected (Orca)": [dict(system="", question=q, chosen=y, rejected=n) for q, y, n in PAIRS],
    "instruction/input/chosen/rejected (Alpaca)": [
        dict(instruction=q, input="", chosen=y, rejected=n) for q, y, n in PAIRS],
    "conversations/chosen/rejected (ShareGPT)": [
        dict(conversations=[{"from": "human", "value": q}], chosen={"from": "gpt", "value": y},
             rejected={"from": "gpt", "value": n}) for q, y, n in PAIRS],
    "TruthfulQA": [dict(question=q, type="x", best_answer=y, correct_answers=[y], incorrect_answers=[n])
                   for q, y, n in PAIRS],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_means_its_pairs(files: Files, plain_scores: tuple[float, float], form: str) -> None:
    assert files.scores(files.lines(*FORMS[form])) == pytest.approx(plain_scores, abs=EPS)
    assert f"rows.jsonl: 2 rows of the form {form}; first pair: {json.dumps(KEYS)} -> " in files.stderr
    if form == "prompt beside whole conversations (UltraFeedback)":
        assert "columns not used: 'prompt_id', 'messages', 'score_chosen', 'score_rejected'" in files.stderr


def test_content_in_text_parts_is_the_text(files: Files, plain_scores: tuple[float, float]) -> None:
    rows = [dict(prompt=[dict(role="user", content=[dict(type="text", text=q[:9]), dict(type="text", text=q[9:])])],
                 chosen=[dict(role="assistant", content=[dict(type="text", text=y)])], rejected=n) for q, y, n in PAIRS]
    assert files.scores(files.lines(*rows)) == pytest.approx(plain_scores, abs=EPS)
    rows[1]["prompt"][0]["content"].append(dict(type="image", url="a.png"))
    assert "rows.jsonl:2: 'prompt' has a content part of the type 'image'" in files.refusal(files.lines(*rows))


def test_truthful_qa_makes_the_best_pair_or_every_pair(files: Files, plain_scores: tuple[float, float]) -> None:
    data = files.table("Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers",
                       *([["x", "y", q, y, n, f"{y}; Another.", f"{n}; Worse;"] for q, y, n in PAIRS]))
    assert files.scores(data) == pytest.approx(plain_scores, abs=EPS)
    every = [explicit([user(q)], right, wrong) for q, y, n in PAIRS for right in (y, "Another.") for wrong in (n, "Worse")]
    assert files.scores(data, "--answer-pairs", "all") == pytest.approx(files.scores(files.lines(*every)), abs=EPS)


def test_a_system_column_is_the_system_turn(files: Files) -> None:
    text = "You are brief."
    right = files.scores(files.lines(*[explicit([system(text), user(q)], y, n) for q, y, n in PAIRS]))
    for form in ("question/chosen/rejected (Orca)", "prompt/chosen/rejected", "prompt_arr/chosen_arr/rejected_arr",
                 "conversations with a common beginning", "HH-RLHF transcripts"):
        data = files.lines(*[{**row, "system": text} for row in FORMS[form]], name="system.jsonl")
        assert files.scores(data) == pytest.approx(right, abs=EPS), form
        assert "'system' is the system turn" in files.stderr


CONVERSATIONS = [
    # They part at the last turn, before it, and not at all; one is longer.
    dict(chosen=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(KEYS_YES)],
         rejected=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(PLANT_NO)]),
    dict(chosen=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(KEYS_YES)],
         rejected=[user(KEYS), assistant(PLANT_NO), user("So?"), assistant(PLANT_YES)]),
    dict(chosen=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(KEYS_YES)],
         rejected=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(KEYS_YES)]),
    dict(chosen=[user(KEYS), assistant(KEYS_NO), user("And now?"), assistant(KEYS_YES)],
         rejected=[user(KEYS), assistant(KEYS_NO), user("Hello?"), assistant(KEYS_NO)]),
    dict(chosen=[system("Be kind."), user(PLANT), assistant(PLANT_YES), user("And now?"), assistant("Wait.")],
         rejected=[system("Be kind."), user(PLANT), assistant(PLANT_YES)]),
]
TEXTS = [dict(chosen=f"{KEYS} {KEYS_YES}", rejected=f"{KEYS} {KEYS_NO}"), dict(chosen="Sing a song", rejected="Sing a psalm"),
         dict(chosen=f"{PLANT}\n\u00c4pfel", rejected=f"{PLANT}\n\u00c9s"), dict(chosen="ab", rejected="abc")]


@pytest.mark.parametrize("row", CONVERSATIONS + TEXTS)
def test_an_implicit_prompt_is_what_trl_extracts(files: Files, row: dict) -> None:
    split = extract_prompt(row)
    assert files.scores(files.lines(row)) == pytest.approx(files.scores(files.lines(split, name="split.jsonl")), abs=EPS)


def test_transcripts_are_the_conversations_in_them(files: Files) -> None:
    turns = (KEYS, KEYS_NO, "And now?")
    row = dict(chosen=dialogue(*turns, KEYS_YES), rejected=dialogue(*turns, PLANT_NO))
    right = explicit([user(KEYS), assistant(KEYS_NO), user("And now?")], KEYS_YES, PLANT_NO)
    assert files.scores(files.lines(row)) == pytest.approx(files.scores(files.lines(right, name="r.jsonl")), abs=EPS)


def test_transcripts_as_raw_texts_are_those_of_trl(files: Files) -> None:
    """TRL 1.16.0: the common characters are the prompt, nothing around them, EOS after each answer."""
    row = dict(chosen=dialogue(KEYS, KEYS_YES), rejected=dialogue(KEYS, PLANT_NO))
    ours = files.scores(files.lines(row), "--chat-template", "raw")
    assert ours == pytest.approx(user_files.trl_scores(files.base, [row]), abs=1e-3)


# ---- containers

def packed(rows: Sequence[dict]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def parquet_bytes(table: pa.Table, **settings: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


TABLE = [dict(prompt=q, chosen=y, rejected=n) for q, y, n in PAIRS]
CONTAINERS = {
    "lines.json": "".join(json.dumps(row) + "\n" for row in TABLE),
    "one-line.json": json.dumps(TABLE),
    "pretty.json": json.dumps(TABLE, indent=4),
    "rows.ndjson": "".join(json.dumps(row) + "\r\n" for row in TABLE),
    "rows.jsonl.gz": packed(TABLE),
    "rows.json.gz": gzip.compress(json.dumps(PLAIN, indent=1).encode()),
    "rows.csv.gz": gzip.compress("prompt,chosen,rejected\n".encode()
                                 + "".join(f'"{q}","{y}","{n}"\n' for q, y, n in PAIRS).encode()),
    "strings.parquet": parquet_bytes(pa.Table.from_pylist(TABLE)),
    "zstd.parquet": parquet_bytes(pa.Table.from_pylist(PLAIN), compression="zstd", row_group_size=1),
    "large.parquet": parquet_bytes(pa.table({name: pa.array([row[name] for row in TABLE], pa.large_string())
                                             for name in TABLE[0]})),
    "dictionary.parquet": parquet_bytes(pa.table({name: pa.array([row[name] for row in TABLE]).dictionary_encode()
                                                  for name in TABLE[0]})),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_gives_its_rows(files: Files, plain_scores: tuple[float, float], name: str) -> None:
    assert files.scores(files.write(name, CONTAINERS[name])) == pytest.approx(plain_scores, abs=EPS)


def test_tables_separated_by_tabs(files: Files, plain_scores: tuple[float, float]) -> None:
    data = files.table("id,prompt,chosen,rejected", *[("1", *pair) for pair in PAIRS], name="rows.tsv", delimiter="\t")
    assert files.scores(data) == pytest.approx(plain_scores, abs=EPS)
    assert "columns not used: 'id'" in files.stderr


def test_data_sets_that_datasets_saved(files: Files, plain_scores: tuple[float, float]) -> None:
    whole = datasets.Dataset.from_list(PLAIN)
    whole.save_to_disk(files / "saved", num_shards=2)
    assert files.scores(files / "saved") == pytest.approx(plain_scores, abs=EPS)
    datasets.DatasetDict({"train_prefs": whole, "test_prefs": whole}).save_to_disk(files / "dict")
    assert '"train_prefs","test_prefs"' in files.refusal(files / "dict")
    assert files.scores(files / "dict" / "train_prefs") == pytest.approx(plain_scores, abs=EPS)
    for shard in range(2):
        whole.shard(2, shard).to_parquet(files / f"train-0000{shard}-of-00002.parquet")
    assert files.scores(files / "train") == pytest.approx(plain_scores, abs=EPS)
    assert f"name one of the data files in it: {files / 'train'}" in files.refusal(files.folder)


def test_rows_of_mixed_members_keep_them_through_parquet(files: Files) -> None:
    """datasets 5.2.0 stores messages with different members as JSON text (feature Json)."""
    rows = [{**row} for row in PLAIN]
    rows[0]["prompt"] = [{**rows[0]["prompt"][0], "name": "ann"}]
    path = files.lines(*rows)
    mixed = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(files / "cache"))
    assert "Json" in str(mixed.features)
    mixed.to_parquet(files / "mixed.parquet")
    mixed.save_to_disk(files / "mixed")
    right = files.scores(path)
    assert files.scores(files / "mixed.parquet") == pytest.approx(right, abs=EPS)
    assert files.scores(files / "mixed") == pytest.approx(right, abs=EPS)


def test_damaged_containers_are_refused_by_name(files: Files) -> None:
    whole = CONTAINERS["strings.parquet"]
    assert "cut.parquet: cannot be read" in files.refusal(files.write("cut.parquet", whole[:200]))
    assert "cut.jsonl.gz: the gzip file is cut short" in files.refusal(files.write("cut.jsonl.gz", packed(TABLE)[:-9]))
    assert "a comma stands before the closing ']'" in files.refusal(
        files.write("comma.json", json.dumps(TABLE, indent=1)[:-2] + ",\n]"))
    assert "json.exception" not in files.refusal(files.write("bad.jsonl", '{"prompt": "q" "chosen": "a"}\n'))


def test_prompts_come_from_the_same_files(files: Files) -> None:
    def prompts(data: Path) -> str:
        return program.run_successfully(["generate", "--model", files.base, "--prompts", data, "--multipliers", 0,
                                         "--max-new-tokens", 4, "--system-prompt", ""]).stdout

    right = prompts(files.write("questions.txt", "".join(f"{q}\n" for q, _, _ in PAIRS)))
    assert right
    for form in FORMS:
        assert prompts(files.lines(*FORMS[form])) == right, form
    for name, content in CONTAINERS.items():
        assert prompts(files.write(name, content)) == right, name
    finished = program.run(["generate", "--model", files.base, "--multipliers", 0, "--prompts",
                            files.table("Title,Body", ("a", "b"))])
    assert finished.code == program.BAD_INPUT and "reads 'Title,Body', but names no column 'question'" in finished.stderr


def test_generations_keep_the_members_of_their_prompts(files: Files) -> None:
    prompt = [dict(role="assistant", content="Let me look.", tool_calls=[dict(type="function")]),
              dict(role="tool", content="42", tool_call_id="7"), dict(role="user", content=KEYS, name="ann")]
    out = files / "answers.jsonl"
    program.run_successfully(["generate", "--model", files.base, "--prompts", files.lines(dict(prompt=prompt)),
                              "--multipliers", 0, "--max-new-tokens", 2, "--system-prompt", "", "--out", out])
    assert json.loads(out.read_text().splitlines()[0])["prompt"] == prompt


# ---- settings

def test_columns_of_any_name(files: Files, plain_scores: tuple[float, float]) -> None:
    data = files.table("id,the query,good,bad", *[("1", *pair) for pair in PAIRS])
    assert files.scores(data, "--columns", "prompt=the query,chosen=good,rejected=bad") == pytest.approx(
        plain_scores, abs=EPS)
    assert "is missing" in files.refusal(data) or "are missing" in files.refusal(data)
    assert "there is no column 'query', only 'id', 'the query', 'good', 'bad'" in files.refusal(
        data, "--columns", "prompt=query,chosen=good,rejected=bad")


def test_max_pairs_takes_the_first_as_datasets_does(files: Files) -> None:
    rows = PLAIN + [explicit([user(KEYS)], PLANT_YES, PLANT_NO)]
    data = files.lines(*rows)
    taken = list(datasets.load_dataset("json", data_files=str(data), split="train[:2]", cache_dir=str(files / "cache")))
    right = files.scores(files.lines(*taken, name="taken.jsonl"))
    assert files.scores(data, "--max-pairs", 2, "--max-test-pairs", 2) == pytest.approx(right, abs=EPS)
    assert "; 2 of the 3 pairs taken, the first; first pair" in files.stderr
    counts = set()
    for seed in range(8):
        counts.add(files.scores(data, "--max-test-pairs", 1, "--data-seed", seed))
        assert f"1 of the 3 pairs taken, shuffled with the seed {seed}" in files.stderr
    assert len(counts) == 3


def test_repeats_are_counted_in_one_line_each(files: Files, plain_scores: tuple[float, float]) -> None:
    equal = explicit([user(KEYS)], KEYS_YES, KEYS_YES)
    data = files.lines(*PLAIN, PLAIN[1], equal, PLAIN[0])
    test = files.lines(PLAIN[0], explicit([user("Who?")], "You.", "Me."), name="test.jsonl")
    files.scores(data, test=test)
    lines = files.stderr.splitlines()
    assert sum("chosen and rejected are equal in 1 of 5 pairs" in line and f"{data}:4" in line for line in lines) == 1
    assert sum("2 of 5 pairs repeat an earlier one" in line and f"{data}:3 is {data}:2 again" in line
               for line in lines) == 1
    assert sum("1 of 2 held-out pairs is trained on as well" in line and f"{test}:1 is {data}:1" in line
               for line in lines) == 1
    for content in ([PLAIN[0], PLAIN[0]], [equal]):
        assert "--on-duplicate error" in files.refusal(files.lines(*content), "--on-duplicate", "error")
    single = files.lines(*PLAIN)
    assert "held-out pairs are trained on" in files.refusal(single, "--on-duplicate", "error")
    assert files.scores(single) == pytest.approx(plain_scores, abs=EPS)


def test_counts_hold_when_bad_rows_are_left_out(files: Files) -> None:
    data = files.write("rows.csv", "prompt,chosen,rejected\nq,a,b\nq\nr,,b\ns,a,b\n")
    files.scores(data, "--skip-bad")
    assert "rows.csv: 2 rows of the form prompt/chosen/rejected; first pair" in files.stderr
    assert files.stderr.count("warning: left out:") == 4  # two rows of each of the two files


@pytest.mark.parametrize(("text", "mark"), [("<|im_start|>user\nWho?<|im_end|>", "<|im_start|>"), ("[INST] Who? [/INST]", "[INST]"),
                                            ("Who?<|eot|>", "<|eot|>"), ("\n\nHuman: Who?\n\nAssistant:", "\\n\\nHuman:")])
def test_text_that_is_laid_out_already_is_named(files: Files, text: str, mark: str) -> None:
    files.scores(files.lines(dict(prompt=text, chosen="You.", rejected="Me."), PLAIN[0]))
    assert f'marks of a chat format stand in the texts of 1 of 2 pairs' in files.stderr
    assert f'rows.jsonl:1 has "{mark}"' in files.stderr
    files.scores(files.lines(dict(prompt="Is 2 < 3 [yes]?", chosen="a <b> | c", rejected="Me.")))
    assert "marks of a chat format" not in files.stderr


def test_a_run_file_is_that_of_a_version_without_these_settings(files: Files) -> None:
    data = files.lines(*PLAIN)
    out = user_files.run_file(data)
    files.scores(data)
    with h5py.File(out) as file:
        config = json.loads(file.attrs["config"])
    assert not {"columns", "answer_pairs", "max_pairs", "max_test_pairs", "data_seed"} & set(config)
    arguments = ["train", "--model", files.base, "--train", data, "--test", data, "--layer", 1, "--epochs", 1,
                 "--batch-size", 1, "--max-steps", 1, "--system-prompt", "", "--multipliers", 0, "--out", out, "--resume"]
    assert program.run(arguments).code == program.DONE
    other = program.run([*arguments, "--max-pairs", 1])
    assert other.code == program.BAD_INPUT and "train_tokens_hash was" in other.stderr


def test_what_is_no_pair_is_refused_with_advice(files: Files) -> None:
    def refusal(**row: object) -> str:
        return files.refusal(files.lines(row))

    assert "(KTO), not pairs" in refusal(prompt="q", completion="a", label=True)
    assert "conversations without a rejected answer" in refusal(messages=[user("q"), assistant("a")])
    assert "--columns prompt=query" in refusal(query="q", chosen="So a", rejected="So b")
    assert "differ from their first turn on" in refusal(chosen=[user("a"), assistant("b")],
                                                        rejected=[user("c"), assistant("d")])
    assert "'prompt' is not among the turns" in refusal(prompt="x", chosen=[user("a"), assistant("b")],
                                                        rejected=[user("a"), assistant("c")])
