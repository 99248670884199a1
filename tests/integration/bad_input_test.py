"""Each bad input: exit code 2 before any work, one message that says what, where and what to do, no file."""

import csv
import re
from pathlib import Path

import pytest

import damaged_models as damage
import program
import run_files
from tiny_models import TinyModel, write_model


def assert_refused(job, *patterns, ranks=None, extra=()):
    """The program refuses `job`; every pattern is found in its message, whatever the case."""
    finished = program.run([*job.arguments(), *extra], ranks, timeout=60)
    assert finished.code == program.BAD_INPUT, finished
    for pattern in patterns:
        assert re.search(pattern, finished.stderr, re.IGNORECASE), f"no {pattern!r} in\n{finished}"
    assert "terminate called" not in finished.stderr, finished
    assert finished.stdout == "", "stdout carries results only"
    assert_nothing_left(job)
    return finished


def assert_nothing_left(job):
    if "out" in job.settings and job.out.parent.is_dir():
        assert not job.out.exists(), "a refused run leaves no run file"
        assert run_files.temporary_files(job.out.parent) == []


def literally(text):
    return re.escape(str(text))


@pytest.fixture
def damaged(tiny_model, tmp_path) -> Path:
    return damage.copy_of(tiny_model, tmp_path)


@pytest.fixture
def sharded(tmp_path) -> Path:
    return write_model(tmp_path / "sharded", TinyModel(max_shard_size="60KB"))


def write_rows(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


HEADER = ["question", "matching", "not_matching"]
ROW = ["Shall we go?", "Yes, we shall.", "No."]


class TestOptions:
    @pytest.mark.parametrize("written, nearest", [
        ("--epoch", "--epochs"), ("--warmup-step", "--warmup-steps"), ("--batchsize", "--batch-size"),
        ("--modle", "--model")])
    def test_unknown_option(self, job, written, nearest):
        assert_refused(job, literally(written), literally(nearest) + r"\b", extra=[written, "3"])

    def test_unknown_command(self):
        finished = program.run(["trian"])
        assert finished.code == program.BAD_INPUT, finished
        assert "trian" in finished.stderr and "train" in finished.stderr.replace("trian", ""), finished

    def test_missing_options_are_named_together(self):
        finished = program.run(["train", "--epochs", "1"])
        assert finished.code == program.BAD_INPUT, finished
        for name in ("--model", "--train", "--layer", "--out"):
            assert name in finished.stderr, finished

    @pytest.mark.parametrize("option, value", [("lr", "fast"), ("lr", "-1"), ("lr", "nan"), ("beta", "0"),
                                               ("epochs", "0"), ("sign", "up"), ("batch_size", "4.5"),
                                               ("multipliers", "1,x"), ("device", "tpu"), ("tp", "0")])
    def test_values_out_of_range(self, job, option, value):
        assert_refused(job.but(**{option: value}), literally("--" + option.replace("_", "-")),
                       literally(value))

    def test_resume_and_overwrite_exclude_each_other(self, job):
        assert_refused(job, "--resume", "--overwrite", extra=["--resume", "--overwrite"])

    def test_unknown_key_in_the_configuration_file(self, job, tmp_path):
        config = tmp_path / "run.ini"
        config.write_text("epochs = 2\nlearning-rate = 1\n", encoding="utf-8")
        assert_refused(job.but(config=config), r"run\.ini", "learning-rate")

    @pytest.mark.parametrize("layer", [4, 99])
    def test_layer_out_of_range(self, job, layer):
        assert_refused(job.but(layer=layer), rf"layer\D*{layer}\b", r"\b[34]\b")


class TestRanks:
    def test_more_tensor_parallel_ranks_than_heads(self, job):
        assert_refused(job.but(tp=7), r"\b7\b", r"\b6\b", "heads?", "tp", ranks=7)

    def test_tensor_parallel_without_ranks(self, job):
        assert_refused(job.but(tp=2), r"world = cells x dp x tp", r"\b2\b")

    def test_world_not_divisible(self, job):
        assert_refused(job.but(tp=2), r"world = cells x dp x tp", r"\b3\b", "--tp", ranks=3)

    def test_wrong_number_of_replicas(self, job):
        assert_refused(job.but(dp=3), r"world = cells x dp x tp", r"1 x 3 x 1 = 3", r"\b2 ranks", ranks=2)

    @pytest.mark.parametrize("changes, once", [({"layer": 44}, r"\b44\b"),
                                               ({"train": "nowhere.csv"}, r"nowhere\.csv")])
    def test_one_message_however_many_ranks(self, job, changes, once):
        finished = assert_refused(job.but(**changes), once, ranks=2)
        lines = [line for line in finished.stderr.splitlines() if re.search(once, line)]
        assert len(lines) == 1, finished


class TestModelFiles:
    def test_no_such_directory(self, job):
        assert_refused(job.but(model="/nowhere/at/all"), literally("/nowhere/at/all"))

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_missing_file(self, job, damaged, name):
        (damaged / name).unlink()
        assert_refused(job.but(model=damaged), literally(name), literally(damaged))

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    def test_malformed_json(self, job, damaged, name):
        (damaged / name).write_text('{"a": ', encoding="utf-8")
        assert_refused(job.but(model=damaged), literally(name), "json")

    def test_unknown_architecture(self, job, damaged):
        def edit(config):
            config.update(architectures=["GPT2LMHeadModel"], model_type="gpt2")

        damage.edit_json(damaged / "config.json", edit)
        assert_refused(job.but(model=damaged), "config.json", "gpt2", "llama")

    def test_unknown_rope_scaling(self, job, damaged):
        scaling = {"rope_type": "spiral", "type": "spiral", "factor": 4.0}
        damage.edit_json(damaged / "config.json", lambda config: config.update(rope_scaling=scaling))
        assert_refused(job.but(model=damaged), "config.json", "rope", "spiral", "llama3")

    def test_missing_size_in_the_configuration(self, job, damaged):
        damage.edit_json(damaged / "config.json", lambda config: config.pop("hidden_size"))
        assert_refused(job.but(model=damaged), "config.json", "hidden_size")

    def test_vocabulary_mismatch(self, job, damaged):
        damage.edit_json(damaged / "config.json", lambda config: config.update(vocab_size=301))
        assert_refused(job.but(model=damaged), "vocab_size|vocabulary", r"\b301\b", r"\b300\b",
                       "embed_tokens")

    def test_token_without_a_row_in_the_embedding(self, job, damaged, tmp_path):
        """A tokenizer that holds more tokens than the model is common, and harmless until one is used."""
        def edit(tokenizer):
            tokenizer["added_tokens"].append({"id": 300, "content": "<|extra|>", "single_word": False,
                                              "lstrip": False, "rstrip": False, "normalized": False,
                                              "special": True})

        damage.edit_json(damaged / "tokenizer.json", edit)
        data = write_rows(tmp_path / "data.csv", [HEADER, ROW, ["Is it <|extra|>?", "Yes.", "No."]])
        assert_refused(job.but(model=damaged, train=data), r"data\.csv:3\b", r"\b300\b", "tokenizer")

    @pytest.mark.parametrize("name, value", [("num_hidden_layers", 5), ("intermediate_size", 96),
                                             ("num_key_value_heads", 4)])
    def test_configuration_that_does_not_fit_the_weights(self, job, damaged, name, value):
        damage.edit_json(damaged / "config.json", lambda config: config.update({name: value}))
        assert_refused(job.but(model=damaged), r"model\.(layers|safetensors)|config\.json")


class TestSafetensors:
    @pytest.mark.parametrize("drop", [1, 1000])
    def test_truncated(self, job, damaged, drop):
        damage.truncate(damaged / damage.WEIGHTS, drop)
        assert_refused(job.but(model=damaged), r"model\.safetensors",
                       "truncated|incomplete|shorter|bytes|end")

    def test_shorter_than_any_header(self, job, damaged):
        (damaged / damage.WEIGHTS).write_bytes(b"\x01\x02\x03")
        assert_refused(job.but(model=damaged), r"model\.safetensors")

    @pytest.mark.parametrize("size", [10**6, 2**40, 2**64 - 1])
    def test_header_longer_than_the_file(self, job, damaged, size):
        damage.declare_header_size(damaged / damage.WEIGHTS, size)
        assert_refused(job.but(model=damaged), r"model\.safetensors", "header")

    def test_header_that_is_no_json(self, job, damaged):
        damage.declare_header_size(damaged / damage.WEIGHTS, 40)
        assert_refused(job.but(model=damaged), r"model\.safetensors", "header")

    def test_overlapping_tensors(self, job, damaged):
        damage.edit_safetensors(damaged / damage.WEIGHTS, damage.overlap_two_tensors)
        assert_refused(job.but(model=damaged), r"model\.safetensors", "overlap", r"model\.|lm_head")

    def test_hole_between_tensors(self, job, damaged):
        damage.edit_safetensors(damaged / damage.WEIGHTS, damage.leave_a_hole)
        assert_refused(job.but(model=damaged), r"model\.safetensors", "hole|gap|no tensor|unused|cover")

    def test_tensor_past_the_end(self, job, damaged):
        damage.edit_safetensors(damaged / damage.WEIGHTS, damage.point_past_the_end)
        assert_refused(job.but(model=damaged), r"model\.safetensors")

    def test_shape_that_does_not_fit_the_bytes(self, job, damaged):
        damage.edit_safetensors(damaged / damage.WEIGHTS, damage.claim_another_shape)
        assert_refused(job.but(model=damaged), r"model\.safetensors", "shape|bytes")

    def test_missing_tensor(self, job, damaged):
        removed = []
        damage.edit_safetensors(damaged / damage.WEIGHTS,
                                lambda header, data: removed.append(damage.remove_a_tensor(header, data)))
        assert_refused(job.but(model=damaged), literally(removed[0]))

    def test_all_missing_tensors_are_named(self, job, damaged):
        removed = []

        def edit(header, data):
            removed.extend(damage.remove_a_tensor(header, data) for _ in range(3))

        damage.edit_safetensors(damaged / damage.WEIGHTS, edit)
        assert_refused(job.but(model=damaged), "3 tensors are missing", *map(literally, removed))

    def test_all_unfit_tensors_are_named(self, job, damaged):
        def edit(header, data):
            norm = header["model.norm.weight"]
            norm["dtype"] = "I32"

        damage.edit_safetensors(damaged / damage.WEIGHTS, edit)
        damage.edit_json(damaged / "config.json", lambda config: config.update(vocab_size=301))
        assert_refused(job.but(model=damaged), "3 tensors are",
                       r"model\.embed_tokens\.weight in model\.safetensors has shape \[300, 48\].*\[301, 48\]",
                       r"lm_head\.weight in model\.safetensors has shape", r"model\.norm\.weight.*type Int")

    def test_key_twice_in_the_header(self, job, damaged):
        damage.rewrite_header(damaged / damage.WEIGHTS, lambda text: text.replace(
            '"model.norm.weight":', '"lm_head.weight":'))
        assert_refused(job.but(model=damaged), r"model\.safetensors", "lm_head.weight.*twice")

    @pytest.mark.parametrize("nested", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
    def test_deep_nesting_in_the_header(self, job, damaged, nested):
        damage.rewrite_header(damaged / damage.WEIGHTS, lambda text: text.replace(
            '"shape":[300,48]', f'"shape":{nested}'))
        assert_refused(job.but(model=damaged), r"model\.safetensors", "nested")

    def test_sizes_whose_product_is_harmless(self, job, damaged):
        damage.edit_safetensors(damaged / damage.WEIGHTS, lambda header, data: damage.add_tensor(
            header, data, "empty", b"", "F32", [0, 2 ** 64 - 1]))
        assert_refused(job.but(model=damaged), r"model\.safetensors", "tensor empty", "sizes")

    def test_pointer_in_place_of_the_file(self, job, damaged):
        (damaged / damage.WEIGHTS).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", encoding="utf-8")
        assert_refused(job.but(model=damaged), r"model\.safetensors", "git lfs pull")

    @pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/../../x.safetensors",
                                      ".."])
    def test_index_that_leaves_the_directory(self, job, sharded, name):
        def edit(index):
            weights = index["weight_map"]
            weights[sorted(weights)[0]] = name

        damage.edit_json(sharded / damage.INDEX, edit)
        assert_refused(job.but(model=sharded), r"index\.json", literally(name))

    def test_missing_shard(self, job, sharded):
        for name in ("model-00003-of-00007", "model-00006-of-00007"):
            (sharded / f"{name}.safetensors").unlink()
        assert_refused(job.but(model=sharded), r"index\.json", "2 of the 7 files", "model-00003-of-00007",
                       "model-00006-of-00007")

    def test_index_that_names_another_shard(self, job, sharded):
        places = {}

        def exchange(index):
            weights = index["weight_map"]
            one, other = sorted(weights)[0], sorted(weights)[-1]
            places.update({one: weights[one], other: weights[other]})
            weights[one], weights[other] = weights[other], weights[one]

        damage.edit_json(sharded / damage.INDEX, exchange)
        (one, its), (other, others) = places.items()
        assert its != others
        assert_refused(job.but(model=sharded), r"index\.json",
                       f"{literally(one)}, which is in {literally(its)} instead of {literally(others)}",
                       f"{literally(other)}, which is in {literally(others)} instead of {literally(its)}")

    def test_index_that_names_a_tensor_no_shard_has(self, job, sharded):
        def edit(index):
            index["weight_map"]["model.more.weight"] = "model-00001-of-00007.safetensors"

        damage.edit_json(sharded / damage.INDEX, edit)
        assert_refused(job.but(model=sharded), r"index\.json", "model.more.weight", "lacks")

    def test_key_twice_in_the_index(self, job, sharded):
        index = sharded / damage.INDEX
        index.write_text(index.read_text(encoding="utf-8").replace('"model.norm.weight":', '"lm_head.weight":'),
                         encoding="utf-8")
        assert_refused(job.but(model=sharded), r"index\.json", "lm_head.weight.*twice")

    def test_tensor_in_two_shards(self, job, sharded):
        damage.edit_safetensors(sharded / "model-00001-of-00007.safetensors",
                                lambda header, data: damage.add_tensor(
                                    header, data, "model.norm.weight", bytes(4 * 48), "F32", [48]))
        assert_refused(job.but(model=sharded), "model.norm.weight", "model-00001-of-00007")


class TestExtraTensors:
    def warnings_of(self, job, ranks=None):
        finished = program.run_successfully(job.but(epochs=1, max_steps=1).arguments(), ranks)
        return [line for line in finished.stderr.splitlines() if line.startswith("warning: ") and "not used" in line]

    def add(self, model, names):
        def edit(header, data):
            for name in names:
                damage.add_tensor(header, data, name, bytes(4 * 4), "F32", [4])

        damage.edit_safetensors(model / damage.WEIGHTS, edit)

    def test_warned_about_once(self, job, damaged):
        self.add(damaged, ["model.layers.4.mlp.up_proj.weight", "vision.weight"])
        warnings = self.warnings_of(job.but(model=damaged), 2)
        assert len(warnings) == 1, warnings
        for part in ("2 tensors are", "model.layers.4.mlp.up_proj.weight", "vision.weight", str(damaged)):
            assert part in warnings[0]

    def test_many_are_counted(self, job, damaged):
        self.add(damaged, [f"vision.{index:02}.weight" for index in range(40)])
        (warning,) = self.warnings_of(job.but(model=damaged))
        assert "40 tensors are" in warning and "vision.09" in warning and "vision.10" not in warning

    def test_what_old_checkpoints_store_is_not(self, job, damaged):
        self.add(damaged, [f"model.layers.{block}.self_attn.rotary_emb.inv_freq" for block in range(4)])
        assert self.warnings_of(job.but(model=damaged)) == []

    def test_copy_of_a_tied_head_is_not(self, job, tmp_path):
        model = write_model(tmp_path / "tied", TinyModel(tied=True))

        def copy_embedding(header, data):
            embedding = header["model.embed_tokens.weight"]
            begin, end = embedding["data_offsets"]
            damage.add_tensor(header, data, "lm_head.weight", bytes(data[begin:end]), embedding["dtype"],
                              embedding["shape"])

        damage.edit_safetensors(model / damage.WEIGHTS, copy_embedding)
        finished = program.run_successfully(job.but(model=model, epochs=1, max_steps=1).arguments())
        assert "lm_head" not in finished.stderr, finished


class TestTokenizer:
    def test_unsupported_component(self, job, damaged):
        component = {"type": "UnicodeScripts"}
        damage.edit_json(damaged / "tokenizer.json",
                         lambda tokenizer: tokenizer.update(pre_tokenizer=component))
        assert_refused(job.but(model=damaged), r"tokenizer\.json", "UnicodeScripts")

    def test_unsupported_model(self, job, damaged):
        damage.edit_json(damaged / "tokenizer.json",
                         lambda tokenizer: tokenizer["model"].update(type="Unigram"))
        assert_refused(job.but(model=damaged), r"tokenizer\.json", "Unigram")

    def test_unrecognised_chat_template(self, job, damaged):
        template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
        damage.edit_json(damaged / "tokenizer_config.json",
                         lambda config: config.update(chat_template=template))
        assert_refused(job.but(model=damaged), "template", "--chat-template", "chatml")

    def test_no_chat_template(self, job, damaged):
        damage.edit_json(damaged / "tokenizer_config.json", lambda config: config.pop("chat_template"))
        assert_refused(job.but(model=damaged), "no chat template", "--chat-template plain",
                       r"--chat-template NAME\|FILE")

    def test_a_template_that_is_neither_a_name_nor_a_file(self, job):
        assert_refused(job.but(chat_template="vicuna"), "--chat-template 'vicuna'", "chatml", "plain")

    def test_a_date_that_no_calendar_has(self, job):
        assert_refused(job.but(template_date="2023-02-29"), "--template-date", "YYYY-MM-DD")

    def test_eos_that_is_no_token(self, job, damaged):
        damage.edit_json(damaged / "tokenizer_config.json",
                         lambda config: config.update(eos_token="</none>"))
        assert_refused(job.but(model=damaged), "eos", literally("</none>"))


class TestPairs:
    def test_no_such_file(self, job, tmp_path):
        assert_refused(job.but(train=tmp_path / "absent.csv"), r"absent\.csv")

    def test_missing_column(self, job, tmp_path):
        data = write_rows(tmp_path / "data.csv", [["question", "matching", "other"], ROW])
        assert_refused(job.but(train=data), r"data\.csv", "not_matching", "other")

    def test_empty_answer(self, job, tmp_path):
        """The line counts lines of the file, not rows: the first row spans two."""
        rows = [HEADER, ["Two\nlines?", "Yes.", "No."], ROW, ["Really?", "  ", "No."]]
        assert_refused(job.but(train=write_rows(tmp_path / "data.csv", rows)), r"data\.csv:5\b", "matching",
                       "empty")

    def test_bad_rows_can_be_skipped(self, job, tmp_path):
        data = write_rows(tmp_path / "data.csv", [HEADER, ROW, ["Really?", "", "No."], ROW])
        finished = program.run_successfully(job.but(train=data, epochs=1).arguments("--skip-bad"))
        assert re.search(r"data\.csv:3\b", finished.stderr), finished

    def test_pair_longer_than_the_context(self, job, tmp_path):
        data = write_rows(tmp_path / "data.csv", [HEADER, ROW, ["Long?", "word " * 1200, "No."]])
        assert_refused(job.but(train=data), r"data\.csv:3\b", r"\b1024\b", "tokens")

    def test_pair_longer_than_the_given_length(self, job):
        assert_refused(job.but(max_length=32), r"train\.csv:2\b", r"\b32\b", "--max-length")

    def test_bad_test_pairs(self, job, tmp_path):
        """Held-out pairs are checked before training, also where no evaluation will read them."""
        data = write_rows(tmp_path / "held_out.csv", [HEADER, ["Really?", "", "No."]])
        assert_refused(job.but(test=data, eval_every=0), r"held_out\.csv:2\b")

    def test_not_utf8(self, job, tmp_path):
        data = tmp_path / "data.csv"
        data.write_bytes(b"question,matching,not_matching\nWell?,\xff\xfe,No.\n")
        assert_refused(job.but(train=data), r"data\.csv:2\b", "utf-8")


class TestOutput:
    def test_directory_missing(self, job, tmp_path):
        assert_refused(job.but(out=tmp_path / "absent" / "run.h5"), literally(tmp_path / "absent"),
                       "directory")

    def test_path_below_a_regular_file(self, job, tiny_pairs):
        assert_refused(job.but(out=tiny_pairs / "run.h5"), literally(tiny_pairs))

    def test_directory_that_takes_no_files(self, job):
        """/proc refuses new files even to root, which ordinary permissions do not."""
        assert_refused(job.but(out="/proc/run.h5"), "/proc")

    def test_a_directory_itself(self, job, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        finished = program.run(job.but(out=folder).arguments("--overwrite"))
        assert finished.code == program.BAD_INPUT, finished
        assert str(folder) in finished.stderr and "directory" in finished.stderr, finished

    def test_inspect_of_a_missing_file(self, tmp_path):
        finished = program.run(["inspect", tmp_path / "absent.h5"])
        assert finished.code == program.BAD_INPUT, finished
        assert "absent.h5" in finished.stderr, finished
