// config.json as published models have it, and settings that nobody reads.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

class ModelConfigs : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  ModelConfig read(const Json& json) const {
    std::ofstream(directory_ / "config.json") << json;
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

TEST_F(ModelConfigs, OfPublishedModelsNeedNoWarning) {
  for (const std::string& text : kPublished) {
    const ModelConfig config = read(Json::parse(text));
    EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
  }
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
        Json{{"sliding_window", 16}}}) {
    const std::string key = change.begin().key();
    testing::expect_parts(testing::error_of<UserError>([&] { read(with(llama(), change)); }),
                          {key, "not supported"});
  }
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
