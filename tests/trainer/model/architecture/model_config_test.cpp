// config.json as published models have it, and settings that nobody reads.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/architecture/wrappers.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

class ModelConfigs : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  ModelConfig read(const Json& json) const { return read(json.dump()); }

  ModelConfig read(const std::string& text) const {
    std::ofstream(directory_ / "config.json") << text;
    return read_model_config(directory_);
  }

  // Whether some warning has all the parts.
  static bool is_named(const ModelConfig& config, const std::vector<std::string>& parts) {
    return std::any_of(
        config.warnings.begin(), config.warnings.end(), [&](const std::string& warning) {
          return std::all_of(parts.begin(), parts.end(), [&](const std::string& part) {
            return warning.find(part) != std::string::npos;
          });
        });
  }

  const std::filesystem::path directory_ = std::filesystem::path(::testing::TempDir()) /
                                           ("bipo-model-config-" + std::to_string(getpid()));
};

Json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"intermediate_size", 96},
          {"vocab_size", 100},
          {"max_position_embeddings", 256}};
}

Json with(Json json, const Json& changes) {
  json.update(changes);
  return json;
}

// The keys of published files, with the sizes of a small model.
const std::vector<std::string> kPublished = {
    // Llama 3.1 and 3.2
    R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 16,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": true,
        "vocab_size": 100})",
    // SmolLM2
    R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.041666666666666664, "intermediate_size": 96,
        "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 100})",
    // Mistral 7B 0.3
    R"({"architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.0.dev0", "use_cache": true, "vocab_size": 100})",
    // Qwen 2.5
    R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 32768, "max_window_layers": 21,
        "model_type": "qwen2", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": true, "use_mrope": false,
        "use_sliding_window": false, "vocab_size": 100})",
    // Qwen 3
    R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 16, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
        "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 100})",
    // Gemma 2
    R"({"_name_or_path": "x", "architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 8192, "model_type": "gemma2",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.4", "use_cache": true, "vocab_size": 100})",
    // Gemma 3 1B
    R"({"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid",
        "eos_token_id": [1, 106], "final_logit_softcapping": null, "head_dim": 16,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 32768, "model_type": "gemma3_text",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0", "use_cache": true, "vocab_size": 100})",
    // SmolLM3
    R"({"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.02, "intermediate_size": 96,
        "layer_types": ["full_attention", "full_attention"], "max_position_embeddings": 65536,
        "max_window_layers": 28, "mlp_bias": false, "model_type": "smollm3",
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 0], "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 128004,
        "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0,
        "sliding_window": null, "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0",
        "use_cache": false, "use_sliding_window": false, "vocab_size": 100})",
    // Phi-4-mini
    R"({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 199999,
        "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
        "interpolate_factor": 1, "lm_head_bias": false, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "phi3", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "original_max_position_embeddings": 4096, "pad_token_id": 199999,
        "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1, 1.1, 1.2, 1.3, 2, 2], "short_factor": [1, 1, 1, 1, 1, 1],
        "type": "longrope"}, "rope_theta": 10000.0, "sliding_window": 262144,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.45.0",
        "use_cache": true, "vocab_size": 100})",
    // Phi-4
    R"({"_name_or_path": "x", "architectures": ["Phi3ForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "auto_map": {}, "bos_token_id": 100257, "embd_pdrop": 0.0,
        "eos_token_id": 100265, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 16384, "model_type": "phi3",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "original_max_position_embeddings": 16384, "pad_token_id": 100349, "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 250000, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.47.0",
        "use_cache": true, "vocab_size": 100})"};

// The keys of EleutherAI/pythia-*, microsoft/phi-2 and bigcode/starcoder2-*.
Json pythia() {
  return Json::parse(R"({"architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0,
      "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 64, "initializer_range": 0.02,
      "intermediate_size": 96, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
      "model_type": "gpt_neox", "num_attention_heads": 4, "num_hidden_layers": 2,
      "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
      "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": true,
      "use_parallel_residual": true, "vocab_size": 100})");
}

Json phi_2() {
  return Json::parse(R"({"architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
      "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "hidden_act": "gelu_new",
      "hidden_size": 80, "initializer_range": 0.02, "intermediate_size": 96,
      "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "phi",
      "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4,
      "partial_rotary_factor": 0.4, "qk_layernorm": false, "resid_pdrop": 0.1,
      "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": false,
      "torch_dtype": "float16", "transformers_version": "4.37.0", "use_cache": true,
      "vocab_size": 100})");
}

Json starcoder_2() {
  return Json::parse(R"({"architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1,
      "bos_token_id": 0, "embedding_dropout": 0.1, "eos_token_id": 0,
      "hidden_act": "gelu_pytorch_tanh", "hidden_size": 64, "initializer_range": 0.018042,
      "intermediate_size": 96, "max_position_embeddings": 16384, "model_type": "starcoder2",
      "norm_epsilon": 1e-05, "num_attention_heads": 4, "num_hidden_layers": 2,
      "num_key_value_heads": 2, "residual_dropout": 0.1, "rope_theta": 100000,
      "sliding_window": 4096, "torch_dtype": "bfloat16", "transformers_version": "4.37.0.dev0",
      "use_bias": true, "use_cache": true, "vocab_size": 100})");
}

TEST_F(ModelConfigs, OfGptNeoXHaveNamesOfTheirOwn) {
  const ModelConfig config = read(pythia());
  EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  EXPECT_EQ(config.rotary.at(0).rotated, 4);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.activation, Activation::kGelu);
  EXPECT_TRUE(config.parallel_blocks && config.parallel_norms && config.fused_by_head);
  EXPECT_TRUE(config.query_key_value_bias && config.attention_output_bias && config.mlp_biases);
  EXPECT_FALSE(config.gated_mlp || config.head_bias);
  const ModelConfig other = read(with(pythia(), {{"use_parallel_residual", false},
                                                 {"attention_bias", false},
                                                 {"rotary_emb_base", 700},
                                                 {"rotary_pct", 1.0}}));
  EXPECT_FALSE(other.parallel_blocks || other.query_key_value_bias || other.attention_output_bias);
  EXPECT_TRUE(other.mlp_biases);
  EXPECT_EQ(other.rotary.at(0).theta, 700);
  EXPECT_EQ(other.rotary.at(0).rotated, 16);
  const ModelConfig silent = read({{"model_type", "gpt_neox"}});
  EXPECT_EQ(silent.hidden, 6144);
  EXPECT_EQ(silent.rotary.at(0).rotated, 24);
  EXPECT_TRUE(
      is_named(read(with(pythia(), {{"num_key_value_heads", 2}})), {"num_key_value_heads"}));
}

TEST_F(ModelConfigs, OfPhiHaveBiasesEverywhere) {
  const ModelConfig config = read(phi_2());
  EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  EXPECT_EQ(config.rotary.at(0).rotated, 8);
  EXPECT_EQ(config.activation, Activation::kGeluTanh);
  EXPECT_TRUE(config.query_key_value_bias && config.attention_output_bias && config.mlp_biases);
  EXPECT_TRUE(config.head_bias && config.norm_biases && config.parallel_blocks);
  EXPECT_FALSE(config.parallel_norms);
  testing::expect_parts(testing::error_of<UserError>([&] {
                          read(with(phi_2(), {{"qk_layernorm", true}}));
                        }),
                        {"\"qk_layernorm\": true", "not supported"});
}

TEST_F(ModelConfigs, OfStarCoder2MayHaveNoBiases) {
  const ModelConfig config = read(starcoder_2());
  EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  EXPECT_TRUE(config.query_key_value_bias && config.attention_output_bias && config.mlp_biases);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.attention_kinds.at(0).window, 4096);
  EXPECT_FALSE(config.parallel_blocks || config.head_bias);
  const ModelConfig other =
      read(with(starcoder_2(), {{"use_bias", false}, {"sliding_window", nullptr}}));
  EXPECT_FALSE(other.query_key_value_bias || other.attention_output_bias || other.mlp_biases);
  EXPECT_TRUE(other.norm_biases);
  EXPECT_EQ(other.attention_kinds.at(0).window, 0);
}

TEST_F(ModelConfigs, ActivationOfAnMlpWithoutGatesIsAGelu) {
  for (const char* name : {"gelu_pytorch_tanh", "gelu_new", "gelu_fast"}) {
    EXPECT_EQ(read(with(pythia(), {{"hidden_act", name}})).activation, Activation::kGeluTanh);
  }
  EXPECT_EQ(read(with(phi_2(), {{"hidden_act", "gelu"}})).activation, Activation::kGelu);
  EXPECT_EQ(read(with(phi_2(), {{"hidden_act", nullptr}})).activation, Activation::kGeluTanh);
  testing::expect_parts(testing::error_of<UserError>([&] {
                          read(with(pythia(), {{"hidden_act", "relu"}}));
                        }),
                        {"\"hidden_act\": \"relu\"", "only gelu, gelu_pytorch_tanh"});
  testing::expect_parts(testing::error_of<UserError>([&] {
                          read(with(llama(), {{"hidden_act", "gelu"}}));
                        }),
                        {"\"hidden_act\": \"gelu\"", "only silu"});
}

TEST_F(ModelConfigs, OfPublishedModelsNeedNoWarning) {
  for (const std::string& text : kPublished) {
    const ModelConfig config = read(Json::parse(text));
    EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  }
}

// google/gemma-3-4b-it leaves most sizes to the class; mistralai's files of 2025 name all.
TEST_F(ModelConfigs, OfPublishedModelsOfTextAndImages) {
  const ModelConfig gemma = read(Json::parse(R"({
      "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
      "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
      "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
      "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
        "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
      "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
      "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}})"));
  EXPECT_TRUE(gemma.warnings.empty()) << gemma.warnings.front();
  EXPECT_EQ(gemma.architecture, "Gemma3ForCausalLM");
  EXPECT_EQ(gemma.wrapper, find_wrapper("Gemma3ForConditionalGeneration"));
  EXPECT_EQ(std::vector({gemma.hidden, gemma.heads, gemma.kv_heads, gemma.head_size,
                         gemma.vocabulary, gemma.context}),
            (std::vector<std::int64_t>{2560, 8, 4, 256, 262208, 131072}));
  EXPECT_TRUE(gemma.tied_head);

  const ModelConfig mistral = read(Json::parse(R"({
      "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16",
      "image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": false,
      "projector_hidden_act": "gelu", "spatial_merge_size": 2,
      "text_config": {"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 262144, "model_type": "ministral3", "num_attention_heads": 32,
        "num_hidden_layers": 34, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0,
          "llama_4_scaling_beta": 0.1, "max_position_embeddings": 262144, "mscale": 1.0,
          "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
          "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn"},
        "sliding_window": null, "tie_word_embeddings": false, "use_cache": true,
        "vocab_size": 131072},
      "tie_word_embeddings": false, "transformers_version": "5.0.0.dev0",
      "vision_config": {"model_type": "pixtral"}, "vision_feature_layer": -1})"));
  EXPECT_TRUE(mistral.warnings.empty()) << mistral.warnings.front();
  EXPECT_EQ(mistral.rotary.front().query_growth, 0.1);
  EXPECT_EQ(mistral.rotary.front().query_context, 16384);
  EXPECT_EQ(mistral.rotary.front().factor, 1);
  EXPECT_FALSE(mistral.tied_head);
}

// The text part of google/gemma-4-31B-it, with fewer blocks.
Json gemma_4() {
  return Json::parse(R"({
      "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": null,
      "audio_token_id": 258881, "dtype": "bfloat16", "eoa_token_index": 258883,
      "eos_token_id": [1, 106], "initializer_range": 0.02, "model_type": "gemma4",
      "text_config": {"attention_bias": false, "attention_dropout": 0.0, "attention_k_eq_v": true,
        "dtype": "bfloat16", "enable_moe_block": false, "final_logit_softcapping": 30.0,
        "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 5376, "hidden_size_per_layer_input": 0, "intermediate_size": 21504,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "max_position_embeddings": 262144, "model_type": "gemma4_text",
        "moe_intermediate_size": null, "num_attention_heads": 32, "num_experts": null,
        "num_global_key_value_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 16,
        "num_kv_shared_layers": 0, "rms_norm_eps": 1e-06, "rope_parameters": {
          "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
            "rope_type": "proportional"},
          "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
        "sliding_window": 1024, "tie_word_embeddings": true, "top_k_experts": null,
        "use_bidirectional_attention": "vision", "use_cache": true, "use_double_wide_mlp": false,
        "vocab_size": 262144, "vocab_size_per_layer_input": 262144},
      "tie_word_embeddings": true, "transformers_version": "5.5.0.dev0",
      "vision_config": {"model_type": "gemma4_vision"}})");
}

Json gemma_4_with(const Json& changes) {
  Json json = gemma_4();
  json["text_config"].update(changes);
  return json;
}

TEST_F(ModelConfigs, HeadsMayDifferByKindOfBlock) {
  const Json by_block = {{"2", {{"head_dim", 512}, {"num_key_value_heads", 4}}}};
  for (const Json& spelling :
       {gemma_4(), gemma_4_with({{"per_layer_config", by_block},
                                 {"global_head_dim", nullptr},
                                 {"num_global_key_value_heads", nullptr}})}) {
    const ModelConfig config = read(spelling);
    EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
    EXPECT_EQ(config.kind_of_block, (std::vector<std::size_t>{0, 0, 1}));
    const AttentionKind& local = attention_of(config, 1);
    const AttentionKind& global = attention_of(config, 2);
    EXPECT_EQ(local.window, 1024);
    EXPECT_EQ(global.window, 0);
    EXPECT_EQ(head_size_of(config, local), 256);
    EXPECT_EQ(head_size_of(config, global), 512);
    EXPECT_EQ(kv_heads_of(config, local), 16);
    EXPECT_EQ(kv_heads_of(config, global), 4);
    EXPECT_FALSE(local.values_are_keys);
    EXPECT_TRUE(global.values_are_keys);
    EXPECT_EQ(config.rotary,
              (std::vector<RotaryEmbedding>{{.theta = 1e6, .rotated = 128, .over_whole_head = true},
                                            {.theta = 1e4}}));
    EXPECT_EQ(config.query_pre_attention_scalar, 1);
  }
  // Without values that are keys, the other number of key/value heads is not used.
  const ModelConfig config = read(gemma_4_with({{"attention_k_eq_v", false}}));
  EXPECT_EQ(kv_heads_of(config, attention_of(config, 2)), 16);
}

TEST_F(ModelConfigs, TheLastBlockOfGemma4HasNoWindow) {
  const Json all = {"sliding_attention", "sliding_attention", "sliding_attention"};
  const ModelConfig config = read(gemma_4_with({{"layer_types", all}}));
  EXPECT_EQ(attention_of(config, 2).window, 0);
  EXPECT_TRUE(is_named(config, {"layer_types", "last block"}));
}

TEST_F(ModelConfigs, RefuseSwitchesThatAreNotComputedByTheirNames) {
  for (const Json& change :
       {Json{{"enable_moe_block", true}}, Json{{"hidden_size_per_layer_input", 256}},
        Json{{"num_kv_shared_layers", 2}}, Json{{"use_bidirectional_attention", "all"}},
        Json{{"per_layer_config", {{"1", {{"intermediate_size", 96}}}}}},
        Json{{"per_layer_config", {{"3", {{"head_dim", 512}}}}}},
        Json{{"per_layer_config", {{"1", {{"head_dim", 512}}}}}}}) {
    const std::string key = change.begin().key();
    testing::expect_parts(testing::error_of<UserError>([&] { read(gemma_4_with(change)); }), {key});
  }
  Json silent = gemma_4();
  silent["text_config"].erase("hidden_size_per_layer_input");
  testing::expect_parts(testing::error_of<UserError>([&] { read(silent); }),
                        {"hidden_size_per_layer_input", "256"});
}

TEST_F(ModelConfigs, SayWhatKnownFamiliesNeed) {
  for (const auto& [architecture, missing] :
       {std::pair("ApertusForCausalLM", "(it needs xIELU)"),
        std::pair("MixtralForCausalLM", "(it needs a mixture of experts)"),
        std::pair("Qwen3MoeForCausalLM", "(it needs a mixture of experts)"),
        std::pair("NemotronHForCausalLM", "(it needs state-space blocks)"),
        std::pair("BertForMaskedLM", "is not supported; supported: ")}) {
    testing::expect_parts(
        testing::error_of<UserError>([&, name = architecture] {
          read(with(llama(), {{"architectures", {name}}, {"model_type", "other"}}));
        }),
        {architecture, missing, "LlamaForCausalLM"});
  }
}

// As Python's json module writes them.
TEST_F(ModelConfigs, MayHoldNumbersThatJsonDoesNotHave) {
  const auto text_with = [](const std::string& member) {
    return "{" + member + ", " + llama().dump().substr(1);
  };
  const ModelConfig config = read(
      text_with(R"("time_step_limit": [0.0, Infinity, -Infinity, NaN], "note": "Infinity -1")"));
  EXPECT_EQ(config.hidden, 64);
  EXPECT_TRUE(is_named(config, {"\"note\": \"Infinity -1\""}));
  testing::expect_parts(
      testing::error_of<UserError>([&] { read(text_with(R"("rms_norm_eps": Infinity)")); }),
      {"rms_norm_eps"});
  testing::expect_parts(
      testing::error_of<UserError>([&] { read(text_with(R"("rms_norm_eps": Infinite)")); }),
      {"not valid JSON"});
}

TEST_F(ModelConfigs, NameWhatNobodyReads) {
  const ModelConfig config = read(with(llama(), {{"residual_gain", 0.5},
                                                 {"attention_dropout", 0.1},
                                                 {"future_switch", false},
                                                 {"hidden_activation", "gelu"}}));
  ASSERT_EQ(config.warnings.size(), 1U);
  EXPECT_TRUE(is_named(config, {"config.json", "\"residual_gain\": 0.5", "\"hidden_activation\""}));
  EXPECT_FALSE(is_named(config, {"dropout"}));
  EXPECT_FALSE(is_named(config, {"future_switch"}));
}

TEST_F(ModelConfigs, RefuseWhatChangesTheMathematics) {
  for (const Json& change :
       {Json{{"quantization_config", {{"bits", 4}}}}, Json{{"mlp_bias", true}},
        Json{{"residual_multiplier", 0.2}}, Json{{"transformers_weights", "other.safetensors"}},
        Json{{"sliding_window", 16}}, Json{{"num_kv_shared_layers", 2}},
        Json{{"hidden_size_per_layer_input", 8}}, Json{{"kv_lora_rank", 8}},
        Json{{"num_local_experts", 8}}, Json{{"use_bias", true}},
        Json{{"attention_out_bias", true}}}) {
    const std::string key = change.begin().key();
    testing::expect_parts(testing::error_of<UserError>([&] { read(with(llama(), change)); }),
                          {key, "not supported"});
  }
}

// A family that has dense models and others is refused by what the file says, or leaves out.
TEST_F(ModelConfigs, RefuseExpertsAndRecurrentBlocksOfAHybridFamily) {
  const Json dense = with(llama(), {{"model_type", "granitemoehybrid"},
                                    {"architectures", {"GraniteMoeHybridForCausalLM"}},
                                    {"shared_intermediate_size", 48},
                                    {"num_local_experts", 0},
                                    {"num_experts_per_tok", 0},
                                    {"mamba_n_heads", 4},
                                    {"layer_types", {"attention", "attention"}}});
  const ModelConfig config = read(dense);
  EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  EXPECT_EQ(config.intermediate, 48);
  EXPECT_EQ(config.attention_kinds.front().rotary, std::nullopt);
  const auto refuses = [&](const Json& change, const std::string& part) {
    testing::expect_parts(testing::error_of<UserError>([&] { read(with(dense, change)); }), {part});
  };
  refuses({{"num_local_experts", 8}}, "num_local_experts");
  refuses({{"num_local_experts", nullptr}}, "num_local_experts");
  refuses({{"layer_types", {"attention", "mamba"}}}, "\"mamba\"");
  refuses({{"layer_types", nullptr}}, "\"mamba\"");
}

TEST_F(ModelConfigs, ThetaOfOlmo3AtTheTopIsThatOfGlobalBlocks) {
  const Json olmo = with(
      llama(),
      {{"model_type", "olmo3"}, {"architectures", {"Olmo3ForCausalLM"}}, {"rope_theta", 10000}});
  const ModelConfig config = read(olmo);
  EXPECT_EQ(config.rotary.at(0).theta, 10000);
  EXPECT_EQ(config.rotary.at(1).theta, 500000);
  EXPECT_TRUE(is_named(config, {"differ about the rotary settings", "5.23.0 is followed"}));
  EXPECT_TRUE(read(with(olmo, {{"rope_theta", 500000}})).warnings.empty());
}

TEST_F(ModelConfigs, APatternInLettersNeedsItsBlocks) {
  const Json exaone = with(llama(), {{"model_type", "exaone4"},
                                     {"architectures", {"Exaone4ForCausalLM"}},
                                     {"sliding_window", 16},
                                     {"sliding_window_pattern", "LG"}});
  testing::expect_parts(testing::error_of<UserError>([&] { read(exaone); }),
                        {"sliding_window_pattern", "layer_types"});
  const ModelConfig listed =
      read(with(exaone, {{"layer_types", {"sliding_attention", "full_attention"}}}));
  EXPECT_EQ(listed.attention_kinds.at(1).rotary, std::nullopt);
  EXPECT_EQ(listed.attention_kinds.at(0).window, 16);
}

TEST_F(ModelConfigs, GeluOfTheFirstGemmaIsTheApproximation) {
  const Json gemma = with(llama(), {{"model_type", "gemma"},
                                    {"architectures", {"GemmaForCausalLM"}},
                                    {"hidden_act", "gelu"},
                                    {"hidden_activation", "gelu_pytorch_tanh"}});
  const ModelConfig config = read(gemma);
  EXPECT_EQ(config.activation, Activation::kGeluTanh);
  ASSERT_EQ(config.warnings.size(), 1U);
  EXPECT_TRUE(is_named(config, {"\"gelu\"", "4.57.6"}));
  EXPECT_TRUE(is_named(read(with(gemma, {{"hidden_activation", "gelu"}})), {"hidden_activation"}));
}

TEST_F(ModelConfigs, FamilyIsThatOfTheModelType) {
  EXPECT_EQ(read(with(llama(), {{"architectures", nullptr}})).architecture, "LlamaForCausalLM");
  EXPECT_EQ(read(with(llama(), {{"architectures", {"LlamaModel"}}})).architecture,
            "LlamaForCausalLM");
  const ModelConfig mistral = read(with(llama(), {{"model_type", "mistral"}}));
  EXPECT_EQ(mistral.architecture, "MistralForCausalLM");
  EXPECT_TRUE(is_named(mistral, {"LlamaForCausalLM", "mistral"}));
  const ModelConfig other = read(with(llama(), {{"model_type", "tulu"}}));
  EXPECT_EQ(other.architecture, "LlamaForCausalLM");
  EXPECT_TRUE(is_named(other, {"tulu", "not known"}));
  EXPECT_TRUE(read(with(llama(), {{"model_type", "internlm3"}})).warnings.empty());
  EXPECT_EQ(read(with(llama(), {{"architectures", {"MistralForCausalLM"}},
                                {"model_type", "mistral"},
                                {"layer_types", {"full_attention", "sliding_attention"}}}))
                .architecture,
            "MinistralForCausalLM");
}

TEST_F(ModelConfigs, FollowTransformers5WhoeverWroteTheFile) {
  const Json scaling = {{"rope_scaling", {{"rope_type", "default"}, {"rope_theta", 1e6}}}};
  for (const char* version : {"4.57.6", "4.31.0.dev0", "5.0.0.dev0", "unknown"}) {
    const ModelConfig config =
        read(with(with(llama(), scaling), {{"transformers_version", version}}));
    EXPECT_TRUE(is_named(config, {"4.57.6", "5.23.0", "theta 10000", "theta 1000000"})) << version;
    EXPECT_EQ(config.rotary.front().theta, 1e6) << version;
    EXPECT_EQ(is_named(config, {"although the file says", version}), version[0] == '4') << version;
  }
}

TEST_F(ModelConfigs, SettingsOfOneNameNeedNoWarning) {
  const Json yarn = {{"rope_type", "yarn"},
                     {"factor", 4.0},
                     {"original_max_position_embeddings", 64},
                     {"rope_theta", 500.0}};
  const ModelConfig config = read(with(llama(), {{"rope_parameters", yarn}}));
  EXPECT_TRUE(config.warnings.empty());
  const auto& scaling = std::get<YarnRopeScaling>(config.rotary.front().scaling);
  EXPECT_EQ(scaling.original_context, 64);
  EXPECT_EQ(config.rotary.front().theta, 500);
}

TEST_F(ModelConfigs, EverySettingReadPastHasALine) {
  const ModelConfig config =
      read(with(llama(), {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                          {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}, {"q", 1}}}}));
  EXPECT_TRUE(is_named(config, {"\"rope_parameters\": \"rope_theta\": 1000000.0 is not used"}));
  EXPECT_TRUE(is_named(config, {"\"rope_parameters\": \"rope_type\": \"default\" is not used"}));
  EXPECT_TRUE(is_named(config, {"\"rope_scaling\": \"q\": 1 is not used"}));
  EXPECT_EQ(config.warnings.size(), 3U);
  EXPECT_EQ(config.rotary.front().theta, 10000);
}

}  // namespace
}  // namespace bipo
