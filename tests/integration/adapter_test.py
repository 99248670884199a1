"""LoRA adapters through the program: the same answers as from the merged model, and what is refused."""

import json
import re
import shutil

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3Config, Phi3ForCausalLM

import damaged_models as damage
import evaluations as evaluation_files
import lora_adapters
import program
import run_files
from selection import every_second, seldom
from tiny_models import TinyModel, random_llama, write_model, write_tokenizer

# fp32 sums in another order, over answers of up to some 150 nats.
LOG_PROB_TOLERANCE = 1e-4



@pytest.fixture(scope="module")
def adapter(tiny_model):
    weights = load_file(tiny_model / "model.safetensors")
    return lora_adapters.make_adapter(
        lora_adapters.matrix_shapes(weights), use_rslora=True, lora_alpha=2, rank_pattern={"o_proj": 3},
        target_modules=["q_proj", "v_proj", "o_proj", "down_proj", "lm_head"])


@pytest.fixture(scope="module")
def adapter_directory(adapter, tmp_path_factory):
    return adapter.write(tmp_path_factory.mktemp("adapters") / "lora")


@pytest.fixture(scope="module")
def merged_model(tiny_model, adapter, tmp_path_factory):
    """What transformers saves after the update was added in torch."""
    folder = tmp_path_factory.mktemp("models") / "merged"
    shutil.copytree(tiny_model, folder)
    model = random_llama(TinyModel())
    state = model.state_dict()
    merged = adapter.merged({name: values.clone() for name, values in state.items()})
    model.load_state_dict(merged)
    model.save_pretrained(folder)
    return folder


def evaluations(job, ranks=None, **changes):
    changed = job.but(epochs=1, **changes)
    program.run_successfully(changed.arguments(), ranks)
    return run_files.read(changed.out)


def log_probs(run):
    """Of the held-out answers, without a vector."""
    row = run.evaluation(0)
    return numpy.array([row["chosen_logp"], row["rejected_logp"]])


@pytest.mark.parametrize("tp", [1, seldom(2), 3])
def test_answers_are_those_of_the_merged_model(job, undisturbed, adapter_directory, merged_model, tp):
    job = job.but(epochs=1, micro_batch=2)
    merged, without = undisturbed(job.but(model=merged_model)), undisturbed(job)
    adapted = evaluations(job.writing("adapted.h5"), tp, tp=tp, adapter=adapter_directory)
    numpy.testing.assert_allclose(log_probs(adapted), log_probs(merged), rtol=0, atol=LOG_PROB_TOLERANCE)
    assert numpy.abs(log_probs(without) - log_probs(merged)).min() > 100 * LOG_PROB_TOLERANCE
    numpy.testing.assert_allclose(adapted.steps["loss"], merged.steps["loss"], rtol=1e-5)
    assert run_files.cosine(adapted.final_vector, merged.final_vector) >= 0.999999


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    """A model whose query, key and value are one matrix, and gate and up too, with an adapter of both and what
    they make merged."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("phi")
    model = Phi3ForCausalLM(Phi3Config(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        vocab_size=300, max_position_embeddings=1024, original_max_position_embeddings=1024,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    state = {name: values.clone() for name, values in model.state_dict().items()}
    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(state),
                                         target_modules=["qkv_proj", "gate_up_proj"])
    for name, weights in (("base", state), ("merged", adapter.merged(state))):
        model.load_state_dict(weights)
        model.save_pretrained(folder / name)
        write_tokenizer(folder / name, 300)
    return folder / "base", adapter.write(folder / "lora"), folder / "merged"


@pytest.mark.parametrize("tp", [seldom(1), 2, 3])
def test_updates_of_fused_projections(job, undisturbed, phi, tp):
    base, adapter_of_phi, merged_phi = phi
    job = job.but(epochs=1, micro_batch=2)
    merged, without = undisturbed(job.but(model=merged_phi)), undisturbed(job.but(model=base))
    adapted = evaluations(job.writing("adapted.h5"), tp, tp=tp, model=base, adapter=adapter_of_phi)
    numpy.testing.assert_allclose(log_probs(adapted), log_probs(merged), rtol=0, atol=LOG_PROB_TOLERANCE)
    assert numpy.abs(log_probs(without) - log_probs(merged)).min() > 100 * LOG_PROB_TOLERANCE


def test_the_run_file_names_the_adapter(job, adapter_directory):
    assert evaluations(job, adapter=adapter_directory).config["adapter"] == str(adapter_directory)


def assert_refused(job, *patterns):
    finished = program.run(job.arguments(), timeout=60)
    assert finished.code == program.BAD_INPUT, finished
    for pattern in patterns:
        assert re.search(pattern, finished.stderr, re.IGNORECASE), f"no {pattern!r} in\n{finished}"
    return finished


def test_a_run_goes_on_with_its_own_adapter_only(job, adapter, adapter_directory, tmp_path):
    part = job.but(adapter=adapter_directory, epochs=2, max_steps=4)
    program.run_successfully(part.arguments())
    again = part.but(adapter=shutil.copytree(adapter_directory, tmp_path / "elsewhere"))
    program.run_successfully([*again.arguments(), "--resume"])
    changed = {name: values.clone() for name, values in adapter.tensors.items()}
    next(iter(changed.values()))[0, 0] += 1
    other = lora_adapters.Adapter(adapter.config, changed).write(tmp_path / "other")
    for adapters in (other, None):
        finished = program.run([*part.but(adapter=adapters).arguments(), "--resume"])
        assert finished.code == program.BAD_INPUT and "model_fingerprint" in finished.stderr, finished


def test_kept_activations_are_of_one_adapter(job, adapter_directory, tmp_path):
    cached = job.but(cache_dir=tmp_path / "cache")
    without = evaluations(cached.writing("without.h5"))
    adapted = evaluations(cached.writing("adapted.h5"), adapter=adapter_directory)
    fresh = evaluations(job.writing("fresh.h5"), adapter=adapter_directory)
    run_files.assert_identical(adapted, fresh)
    assert not numpy.array_equal(log_probs(without), log_probs(adapted))


@pytest.mark.parametrize("changes, says", every_second([
    ({"peft_type": "IA3"}, "IA3"),
    ({"bias": "lora_only"}, "bias"),
    ({"use_dora": True}, "lora_magnitude_vector.*use_dora"),
    ({"use_qalora": True}, "use_qalora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"lora_bias": True, "use_dora": True}, "lora_bias"),
    ({"fan_in_fan_out": "yes"}, "fan_in_fan_out"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
    ({"target_parameters": ["q_proj.weight"], "use_dora": True}, "target_parameters"),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ({"init_lora_weights": "olora"}, "olora"),
    ({"some_new_variant": 1}, "some_new_variant"),
    ({"rank_pattern": {".*q_proj": 5}}, r"lora_A.*\[4, 48\].*\[5, 48\]"),
    ({"rank_pattern": {"(*ANY)q_proj": 4}}, "rank_pattern"),
    ({"alpha_pattern": {"(q|v)_proj(": 4}}, "alpha_pattern"),
    ({"alpha_pattern": 3}, "alpha_pattern"),
    ({"r": 0}, '"r"'),
    ({"r": 2 ** 63}, '"r"'),
    ({"r": "8"}, '"r"'),
    ({"lora_alpha": None}, "lora_alpha"),
    ({"use_rslora": "yes"}, "use_rslora"),
    ({"r": 5}, r"lora_A.*\[4, 48\].*\[5, 48\]"),
    ({"layers_to_transform": [0, 1]}, r"does not target.*layers\.2\.self_attn\.q_proj"),
    ({"layers_to_transform": [0], "layers_pattern": "h"}, r"does not target.*layers\.0\.self_attn\.q_proj"),
    ({"layers_pattern": "layers"}, "layers_pattern"),
    ({"target_modules": ["q_proj"]}, r"does not target.*layers\.0\.self_attn\.v_proj"),
    ({"target_modules": ["q_proj", "v_proj", "up_proj"]}, r"no tensors.*layers\.3\.mlp\.up_proj"),
    ({"target_modules": [7]}, "target_modules"),
]))
def test_configurations_that_are_refused(job, tiny_model, tmp_path, changes, says):
    weights = load_file(tiny_model / "model.safetensors")
    adapter = lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights))
    adapter.config.update(changes)
    assert_refused(job.but(adapter=adapter.write(tmp_path / "lora")), r"adapter_config\.json", says)


class TestFiles:
    @pytest.fixture
    def plain(self, tiny_model, tmp_path):
        weights = load_file(tiny_model / "model.safetensors")
        return lora_adapters.make_adapter(lora_adapters.matrix_shapes(weights)).write(tmp_path / "lora")

    def edit(self, plain, change):
        tensors = load_file(plain / lora_adapters.TENSORS)
        change(tensors)
        save_file(tensors, plain / lora_adapters.TENSORS)

    def test_no_such_directory(self, job, tmp_path):
        assert_refused(job.but(adapter=tmp_path / "none"), "--adapter", "none", "directory")

    @pytest.mark.parametrize("name", [lora_adapters.CONFIG, lora_adapters.TENSORS])
    def test_missing_file(self, job, plain, name):
        (plain / name).unlink()
        assert_refused(job.but(adapter=plain), "--adapter", re.escape(name))

    @pytest.mark.parametrize("text", ["", "[]", '{"r": 4, "r": 8}', '{"a": ' + "[" * 100 + "]" * 100 + "}"])
    def test_malformed_configuration(self, job, plain, text):
        (plain / lora_adapters.CONFIG).write_text(text, encoding="utf-8")
        assert_refused(job.but(adapter=plain), r"adapter_config\.json")

    def test_truncated(self, job, plain):
        damage.truncate(plain / lora_adapters.TENSORS, 10)
        assert_refused(job.but(adapter=plain), r"adapter_model\.safetensors")

    @pytest.mark.parametrize("name", [
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight",
        "base_model.model.model.norm.lora_A.weight",
        "base_model.model.lm_head.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.poet.weight",
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight"])
    def test_tensors_of_no_module(self, job, plain, name):
        self.edit(plain, lambda tensors: tensors.update({name: torch.zeros(4, 48)}))
        assert_refused(job.but(adapter=plain), r"adapter_model\.safetensors", re.escape(name))

    @pytest.mark.parametrize("end", ["lora_embedding_A", "lora_A.weight"])
    def test_tensors_of_no_target(self, job, plain, end):
        name = f"base_model.model.model.embed_tokens.{end}"
        self.edit(plain, lambda tensors: tensors.update({name: torch.zeros(4, 48)}))
        assert_refused(job.but(adapter=plain), r"adapter_model\.safetensors", r"not target them: model\.embed_tokens")

    def test_one_matrix_of_two(self, job, plain):
        self.edit(plain, lambda tensors: tensors.pop(
            "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"))
        assert_refused(job.but(adapter=plain), r"layers\.1\.self_attn\.v_proj", "lora_A only")

    def test_all_missing_modules_are_named(self, job, plain):
        def remove(tensors):
            for name in [name for name in tensors if "layers.1.self_attn.q" in name or "layers.2." in name]:
                del tensors[name]

        self.edit(plain, remove)
        assert_refused(job.but(adapter=plain), r"3 modules.*layers\.1\.self_attn\.q_proj.*"
                       r"layers\.2\.self_attn\.q_proj.*layers\.2\.self_attn\.v_proj")

    def test_integers(self, job, plain):
        def convert(tensors):
            name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
            tensors[name] = tensors[name].int()

        self.edit(plain, convert)
        assert_refused(job.but(adapter=plain), r"layers\.1\.self_attn\.v_proj\.lora_B", "type")

    def test_head_that_is_the_embedding(self, job, tmp_path):
        tied = write_model(tmp_path / "tied", TinyModel(tied=True))
        adapter = lora_adapters.make_adapter({"lm_head": (300, 48)}, target_modules=["lm_head"])
        assert_refused(job.but(model=tied, adapter=adapter.write(tmp_path / "lora")), "lm_head")


@pytest.fixture(scope="module")
def decomposed(tiny_model, tmp_path_factory):
    """An adapter with DoRA that has the head among its modules, with the head's weights saved along, and the
    merged model."""
    folder = tmp_path_factory.mktemp("decomposed")
    model = random_llama(TinyModel())
    state = {name: values.clone() for name, values in model.state_dict().items()}
    adapter = lora_adapters.make_adapter(
        lora_adapters.matrix_shapes(state), use_dora=True, alpha_pattern={r".*\.[13]\.mlp\..*": 3},
        target_modules=["q_proj", "o_proj", "up_proj", "down_proj", "lm_head"])
    shutil.copytree(tiny_model, folder / "merged")
    model.load_state_dict(adapter_merged(adapter, state))
    model.save_pretrained(folder / "merged")
    adapter.tensors["base_model.model.lm_head.base_layer.weight"] = state["lm_head.weight"]
    return adapter.write(folder / "lora"), folder / "merged"


def adapter_merged(adapter, state):
    """The scale of blocks 1 and 3's MLP is 3 / 4, which `lora_adapters` would have to match expressions for."""
    plain = {name: 3 if re.search(r"layers\.[13]\.mlp", name) else 8 for name in adapter.modules()}
    known = lora_adapters.Adapter({**adapter.config, "alpha_pattern": plain}, adapter.tensors)
    return known.merged(state)


@pytest.mark.parametrize("tp", [seldom(1), 2, 3])
def test_magnitudes_of_rows_that_ranks_share(job, undisturbed, decomposed, tp):
    adapter, merged_model = decomposed
    job = job.but(epochs=1, micro_batch=2)
    merged, without = undisturbed(job.but(model=merged_model)), undisturbed(job)
    adapted = evaluations(job.writing("adapted.h5"), tp, tp=tp, adapter=adapter)
    numpy.testing.assert_allclose(log_probs(adapted), log_probs(merged), rtol=0, atol=LOG_PROB_TOLERANCE)
    assert numpy.abs(log_probs(without) - log_probs(merged)).min() > 100 * LOG_PROB_TOLERANCE
    assert run_files.cosine(adapted.final_vector, merged.final_vector) >= 0.999999


class TestOtherCommands:
    @pytest.fixture
    def both(self, job, decomposed, tiny_model):
        adapter, merged_model = decomposed
        return {"adapted": {"model": tiny_model, "adapter": adapter}, "merged": {"model": merged_model}}

    def test_extract(self, job, both, tmp_path):
        for name, model in both.items():
            program.run_successfully(["extract", *program.options({
                **model, "train": job.settings["train"], "layer": 1, "threads": 1, "out": tmp_path / f"{name}.h5"})])
        adapted, merged = (run_files.read(tmp_path / f"{name}.h5").final_vector for name in both)
        assert run_files.cosine(adapted, merged) >= 0.999999

    def test_evaluate_and_generate(self, job, both, tmp_path):
        prompts = tmp_path / "prompts.csv"
        prompts.write_text("question\nthe cat and a dog\nmaybe\n", encoding="utf-8")
        vector = job.but(epochs=1).writing("vector.h5")
        program.run_successfully(vector.arguments())
        rows, texts = {}, {}
        for name, model in both.items():
            common = {**model, "vector": vector.out, "multipliers": "0,4", "threads": 1}
            program.run_successfully(["evaluate", *program.options({
                **common, "test": job.settings["test"], "out": tmp_path / f"{name}.eval.h5"})])
            program.run_successfully(["generate", *program.options({
                **common, "prompts": prompts, "max_new_tokens": 8, "out": tmp_path / f"{name}.jsonl"})])
            rows[name] = evaluation_files.read(tmp_path / f"{name}.eval.h5").samples
            texts[name] = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for column in ("chosen_logp", "rejected_logp"):
            numpy.testing.assert_allclose(rows["adapted"][column], rows["merged"][column], atol=LOG_PROB_TOLERANCE)
        assert [row["tokens"] for row in texts["adapted"]] == [row["tokens"] for row in texts["merged"]]

    def test_bench_merges(self, tiny_model, adapter_directory):
        finished = program.run_successfully(
            ["bench", "--model", tiny_model, "--adapter", adapter_directory, "--layer", 1, "--steps", 1,
             "--warmup", 0, "--batch-size", 2, "--json"])
        assert json.loads(finished.stdout)

    def test_bench_of_a_shape_has_nothing_to_merge_into(self, adapter_directory):
        finished = program.run(["bench", "--shape", "smollm2-135m", "--adapter", adapter_directory,
                                "--layer", 1])
        assert finished.code == program.BAD_INPUT and "--adapter" in finished.stderr, finished

    def test_sweep_of_one_model(self, job, both, tmp_path):
        for name, model in both.items():
            settings = {**job.settings, "layers": 1, "out": tmp_path / name, "seeds": 3, "max_steps": 3, **model}
            settings.pop("layer")
            program.run_successfully(["sweep", *program.options(settings)])
        one, other = (run_files.read(next((tmp_path / name).rglob("*.h5"))) for name in both)
        numpy.testing.assert_allclose(one.steps["loss"], other.steps["loss"], rtol=1e-5)

    def test_sweep_of_several_models(self, job, tiny_model, merged_model, adapter_directory, tmp_path):
        finished = program.run(["sweep", "--models", f"{tiny_model},{merged_model}", "--train",
                                job.settings["train"], "--layers", 1, "--out", tmp_path / "sweep",
                                "--adapter", adapter_directory])
        assert finished.code == program.BAD_INPUT and "--adapter" in finished.stderr, finished
