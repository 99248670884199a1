#include "trainer/model/architecture/shapes.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// Common to the shapes: Llama's architecture, rotary embedding over the whole head.
ModelConfig llama(std::int64_t hidden, std::int64_t blocks, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t intermediate, std::int64_t vocabulary) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden = hidden;
  config.blocks = blocks;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_size = hidden / heads;
  config.intermediate = intermediate;
  config.vocabulary = vocabulary;
  config.norm_epsilon = 1e-5;
  return config;
}

// Llama 3.1 rescales rotary frequencies for its context of 131,072 tokens.
ModelConfig llama_3_1(ModelConfig config) {
  config.context = 131072;
  config.rotary = {{.theta = 500000, .scaling = Llama3RopeScaling{8, 1, 4, 8192}}};
  return config;
}

// Values of config.json in meta-llama/Llama-2-7b-hf.
ModelConfig llama_2_7b() {
  ModelConfig config = llama(4096, 32, 32, 32, 11008, 32000);
  config.context = 4096;
  return config;
}

// Values of config.json in meta-llama/Llama-3.1-8B.
ModelConfig llama_3_1_8b() {
  return llama_3_1(llama(4096, 32, 32, 8, 14336, 128256));
}

// Values of config.json in meta-llama/Llama-3.1-70B.
ModelConfig llama_3_1_70b() {
  return llama_3_1(llama(8192, 80, 64, 8, 28672, 128256));
}

// Values of config.json in HuggingFaceTB/SmolLM2-135M-Instruct.
ModelConfig smollm2_135m() {
  ModelConfig config = llama(576, 30, 9, 3, 1536, 49152);
  config.context = 8192;
  config.rotary = {{.theta = 100000}};
  config.tied_head = true;
  return config;
}

// What the config.json of a published model says, as far as its class does not say it.
ModelConfig published(std::string_view name, std::string_view text) {
  return parse_model_config(text, name);
}

ModelConfig gemma_7b() {
  return published("google/gemma-7b", R"({"model_type": "gemma", "hidden_size": 3072,
      "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
      "vocab_size": 256000})");
}

ModelConfig gemma_3_12b() {
  return published("google/gemma-3-12b-it", R"({"model_type": "gemma3", "text_config": {
      "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
      "num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}})");
}

ModelConfig gemma_4_31b() {
  return published("google/gemma-4-31B-it", R"({"model_type": "gemma4", "text_config": {
      "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 60,
      "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4,
      "attention_k_eq_v": true, "hidden_size_per_layer_input": 0, "sliding_window": 1024,
      "final_logit_softcapping": 30.0, "max_position_embeddings": 262144}})");
}

ModelConfig ministral_3_8b() {
  return published("mistralai/Ministral-3-8B-Instruct-2512", R"({"model_type": "mistral3",
      "tie_word_embeddings": false, "text_config": {"model_type": "ministral3"}})");
}

ModelConfig seed_oss_36b() {
  return published("ByteDance-Seed/Seed-OSS-36B-Instruct", R"({"model_type": "seed_oss",
      "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
      "num_attention_heads": 80, "vocab_size": 155136, "rope_theta": 10000000.0})");
}

ModelConfig olmo_2_7b() {
  return published("allenai/OLMo-2-1124-7B", R"({"model_type": "olmo2", "hidden_size": 4096,
      "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "max_position_embeddings": 4096, "rms_norm_eps": 1e-06, "rope_theta": 500000,
      "vocab_size": 100352})");
}

ModelConfig olmo_3_7b() {
  return published("allenai/Olmo-3-1025-7B", R"({"model_type": "olmo3", "hidden_size": 4096,
      "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "max_position_embeddings": 65536, "rms_norm_eps": 1e-06, "rope_theta": 500000,
      "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                       "attention_factor": 1.2079441541679836,
                       "original_max_position_embeddings": 8192},
      "vocab_size": 100278})");
}

ModelConfig exaone_4_1_2b() {
  return published("LGAI-EXAONE/EXAONE-4.0-1.2B", R"({"model_type": "exaone4",
      "hidden_size": 2048, "intermediate_size": 4096, "num_hidden_layers": 30,
      "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 65536,
      "sliding_window": null, "tie_word_embeddings": true, "rope_theta": 1000000,
      "rope_scaling": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
      "vocab_size": 102400})");
}

ModelConfig granite_3_3_8b() {
  return published("ibm-granite/granite-3.3-8b-instruct", R"({"model_type": "granite",
      "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 40,
      "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
      "rms_norm_eps": 1e-05, "rope_theta": 10000000.0, "tie_word_embeddings": true,
      "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "logits_scaling": 16.0,
      "residual_multiplier": 0.22, "vocab_size": 49159})");
}

ModelConfig glm_4_9b() {
  return published("zai-org/GLM-4-9B-0414", R"({"model_type": "glm4", "hidden_size": 4096,
      "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
      "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "vocab_size": 151552})");
}

ModelConfig ernie_4_5_03b() {
  return published("baidu/ERNIE-4.5-0.3B-PT", R"({"model_type": "ernie4_5", "hidden_size": 1024,
      "intermediate_size": 3072, "num_hidden_layers": 18, "num_attention_heads": 16,
      "vocab_size": 103424})");
}

// The class's defaults are those of the 9B model.
ModelConfig qwen_3_5_9b() {
  return published("Qwen/Qwen3.5-9B", R"({"model_type": "qwen3_5_text"})");
}

ModelConfig pythia_6_9b() {
  return published("EleutherAI/pythia-6.9b", R"({"model_type": "gpt_neox", "hidden_size": 4096,
      "intermediate_size": 16384, "num_hidden_layers": 32, "num_attention_heads": 32,
      "vocab_size": 50432})");
}

ModelConfig phi_2() {
  return published("microsoft/phi-2", R"({"model_type": "phi", "hidden_size": 2560,
      "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
      "partial_rotary_factor": 0.4, "vocab_size": 51200})");
}

ModelConfig starcoder_2_7b() {
  return published("bigcode/starcoder2-7b", R"({"model_type": "starcoder2", "hidden_size": 4608,
      "intermediate_size": 18432, "num_hidden_layers": 32, "num_attention_heads": 36,
      "num_key_value_heads": 4, "max_position_embeddings": 16384, "rope_theta": 1000000.0,
      "sliding_window": 4096, "vocab_size": 49152})");
}

// In the order of kShapeNames.
constexpr std::array kShapes = {llama_2_7b,     llama_3_1_8b, llama_3_1_70b, smollm2_135m,
                                gemma_4_31b,    gemma_7b,     gemma_3_12b,   ministral_3_8b,
                                seed_oss_36b,   olmo_2_7b,    olmo_3_7b,     exaone_4_1_2b,
                                granite_3_3_8b, glm_4_9b,     ernie_4_5_03b, qwen_3_5_9b,
                                pythia_6_9b,    phi_2,        starcoder_2_7b};
static_assert(kShapes.size() == kShapeNames.size());

}  // namespace

ModelConfig read_shape(const std::string& name_or_path) {
  const auto named = std::find(kShapeNames.begin(), kShapeNames.end(), name_or_path);
  if (named != kShapeNames.end()) {
    return kShapes.at(static_cast<std::size_t>(named - kShapeNames.begin()))();
  }
  const std::filesystem::path path = name_or_path;
  if (path.filename() != "config.json") {
    throw UserError(fmt::format("--shape {}: is neither one of {} nor the path of a config.json",
                                name_or_path, fmt::join(kShapeNames, ", ")));
  }
  return read_model_config(path.parent_path());
}

}  // namespace bipo
