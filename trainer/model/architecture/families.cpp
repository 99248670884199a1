#include "trainer/model/architecture/families.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/wrappers.hpp"

namespace bipo {
namespace {

constexpr Family gemma_2(std::string_view architecture, std::string_view model_type,
                         bool output_norms) {
  return {.architecture = architecture,
          .model_type = model_type,
          .activation = Activation::kGeluTanh,
          .activation_key = ActivationKey::kHiddenActivation,
          .biases = Biases::kIfConfigured,
          .output_norms = output_norms,
          .norm_names = NormNames::kGemma,
          .norms_from_one = true,
          .embedding_times_root = true,
          .attention_soft_cap = true,
          .logit_soft_cap = true,
          .query_scalar = true,
          .windowed = WindowedBlocks::kAllButEveryNth,
          .full_every = 2,
          .lists_windowed_blocks = true,
          .tied_head = true,
          .kv_heads = 4,
          .head_size = 256,
          .context = 8192,
          .window = 4096,
          .query_scalar_value = 256,
          .attention_soft_cap_value = 50,
          .logit_soft_cap_value = 30};
}

constexpr Family gemma_4(std::string_view architecture, std::string_view model_type,
                         bool per_layer_inputs, std::int64_t context, std::int64_t window) {
  return {.architecture = architecture,
          .model_type = model_type,
          .activation = Activation::kGeluTanh,
          .activation_key = ActivationKey::kHiddenActivation,
          .biases = Biases::kIfConfigured,
          .query_key_norms = QueryKeyNorms::kByHead,
          .value_norms = true,
          .output_norms = true,
          .norm_names = NormNames::kGemma,
          .block_scales = true,
          .embedding_times_root = true,
          .logit_soft_cap = true,
          .windowed = WindowedBlocks::kAllButEveryNth,
          .full_every = 6,
          .lists_windowed_blocks = true,
          .ends_with_full_block = true,
          .local_theta = 10000,
          .proportional_part = 0.25,
          .heads_by_kind = true,
          .per_layer_inputs = per_layer_inputs,
          .masks_of_images = true,
          .sizes = {2304, 30, 8, 9216, 262144},
          .tied_head = true,
          .kv_heads = 4,
          .head_size = 256,
          .full_head_size = 512,
          .context = context,
          .window = window,
          .theta = 1000000,
          .query_scalar_value = 1};
}

constexpr Family cohere(std::string_view architecture, std::string_view model_type, double theta) {
  return {.architecture = architecture,
          .model_type = model_type,
          .norm = Norm::kLayer,
          .parallel_blocks = true,
          .biases = Biases::kIfConfigured,
          .epsilon_key = "layer_norm_eps",
          .adjacent_pairs = true,
          .sizes = {8192, 40, 64, 22528, 256000},
          .tied_head = true,
          .context = 8192,
          .norm_epsilon = 1e-5,
          .theta = theta,
          .logit_scale_value = 0.0625};
}

constexpr Family cohere_2() {
  Family family = cohere("Cohere2ForCausalLM", "cohere2", 10000);
  family.rotated = RotatedBlocks::kWindowed;
  family.windowed = WindowedBlocks::kAllButEveryNth;
  family.full_every = 4;
  family.configured_every = true;
  family.lists_windowed_blocks = true;
  family.window = 4096;
  return family;
}

constexpr Family olmo(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture,
          .model_type = model_type,
          .biases = Biases::kIfConfigured,
          .query_key_norms = QueryKeyNorms::kOfAllHeads,
          .input_norms = false,
          .output_norms = true,
          .norm_names = NormNames::kGemma,
          .context = 2048,
          .norm_epsilon = 1e-5};
}

constexpr Family olmo_3() {
  Family family = olmo("Olmo3ForCausalLM", "olmo3");
  family.windowed = WindowedBlocks::kAllButEveryNth;
  family.full_every = 4;
  family.lists_windowed_blocks = true;
  family.local_theta = 500000;
  family.local_theta_key = nullptr;
  family.window = 4096;
  family.theta = 500000;
  return family;
}

constexpr Family glm(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture,
          .model_type = model_type,
          .biases = Biases::kQueryKeyValueIfConfigured,
          .biased = true,
          .fused_gate_up = true,
          .partial_rotation = true,
          .adjacent_pairs = true,
          .kv_heads = 2,
          .head_size = 128,
          .context = 131072,
          .norm_epsilon = 1.5625e-7,
          .rotated_part = 0.5};
}

constexpr Family glm_4() {
  Family family = glm("Glm4ForCausalLM", "glm4");
  family.output_norms = true;
  family.norm_names = NormNames::kGlm;
  return family;
}

constexpr std::array kFamilies = {
    Family{.architecture = "LlamaForCausalLM",
           .model_type = "llama",
           .biases = Biases::kIfConfigured,
           .old_rope_type_first = true,
           .context = 2048},
    Family{.architecture = "MistralForCausalLM",
           .model_type = "mistral",
           .windowed = WindowedBlocks::kAll,
           .sizes = {4096, 32, 32, 14336, 32000},
           .kv_heads = 8,
           .context = 131072,
           .window = 4096},
    Family{.architecture = "MinistralForCausalLM",
           .model_type = "ministral",
           .windowed = WindowedBlocks::kAll,
           .lists_windowed_blocks = true,
           .kv_heads = 8,
           .context = 131072,
           .window = 4096},
    Family{.architecture = "Ministral3ForCausalLM",
           .model_type = "ministral3",
           .growing_queries = true,
           .windowed = WindowedBlocks::kAll,
           .sizes = {4096, 34, 32, 14336, 131072},
           .kv_heads = 8,
           .head_size = 128,
           .context = 262144,
           .norm_epsilon = 1e-5,
           .rope_parameters = R"({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
               "original_max_position_embeddings": 16384, "mscale": 1.0, "mscale_all_dim": 1.0,
               "llama_4_scaling_beta": 0.1})"},
    Family{.architecture = "Qwen2ForCausalLM",
           .model_type = "qwen2",
           .biases = Biases::kQueryKeyValue,
           .old_rope_type_first = true,
           .windowed = WindowedBlocks::kFromConfiguredBlock,
           .lists_windowed_blocks = true,
           .kv_heads = 32,
           .context = 32768,
           .window = 4096},
    Family{.architecture = "Qwen3ForCausalLM",
           .model_type = "qwen3",
           .biases = Biases::kIfConfigured,
           .query_key_norms = QueryKeyNorms::kByHead,
           .old_rope_type_first = true,
           .windowed = WindowedBlocks::kFromConfiguredBlock,
           .lists_windowed_blocks = true,
           .kv_heads = 32,
           .head_size = 128,
           .context = 32768,
           .window = 4096},
    Family{.architecture = "GemmaForCausalLM",
           .model_type = "gemma",
           .activation = Activation::kGeluTanh,
           .activation_key = ActivationKey::kHiddenActOldGelu,
           .biases = Biases::kIfConfigured,
           .norms_from_one = true,
           .embedding_times_root = true,
           .tied_head = true,
           .kv_heads = 16,
           .head_size = 256,
           .context = 8192},
    gemma_2("VaultGemmaForCausalLM", "vaultgemma", /*output_norms=*/false),
    gemma_2("Gemma2ForCausalLM", "gemma2", /*output_norms=*/true),
    Family{.architecture = "Gemma3ForCausalLM",
           .model_type = "gemma3_text",
           .activation = Activation::kGeluTanh,
           .activation_key = ActivationKey::kHiddenActivation,
           .biases = Biases::kIfConfigured,
           .query_key_norms = QueryKeyNorms::kByHead,
           .output_norms = true,
           .norm_names = NormNames::kGemma,
           .norms_from_one = true,
           .embedding_times_root = true,
           .logit_soft_cap = true,
           .query_scalar = true,
           .windowed = WindowedBlocks::kAllButEveryNth,
           .full_every = 6,
           .configured_every = true,
           .lists_windowed_blocks = true,
           .local_theta = 10000,
           .sizes = {2304, 26, 8, 9216, 262208},
           .tied_head = true,
           .kv_heads = 4,
           .head_size = 256,
           .context = 131072,
           .window = 4096,
           .theta = 1000000,
           .query_scalar_value = 256},
    gemma_4("Gemma4ForCausalLM", "gemma4_text", /*per_layer_inputs=*/true, 131072, 512),
    gemma_4("Gemma4UnifiedForCausalLM", "gemma4_unified_text", /*per_layer_inputs=*/false, 262144,
            1024),
    cohere("CohereForCausalLM", "cohere", 500000),
    cohere_2(),
    Family{.architecture = "SeedOssForCausalLM",
           .model_type = "seed_oss",
           .biases = Biases::kOutputApart,
           .biased = true,
           .kv_heads = 8,
           .head_size = 128,
           .context = 524288},
    Family{.architecture = "CwmForCausalLM",
           .model_type = "cwm",
           .windowed = WindowedBlocks::kAllButEveryNthFrom0,
           .full_every = 4,
           .lists_windowed_blocks = true,
           .kv_heads = 8,
           .head_size = 128,
           .context = 131072,
           .window = 8192,
           .norm_epsilon = 1e-5,
           .theta = 1000000,
           .rope_parameters = R"({"rope_type": "llama3", "rope_theta": 1000000.0, "factor": 16.0,
               "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 8192})"},
    olmo("Olmo2ForCausalLM", "olmo2"),
    olmo_3(),
    Family{.architecture = "Exaone4ForCausalLM",
           .model_type = "exaone4",
           .query_key_norms = QueryKeyNorms::kByHead,
           .input_norms = false,
           .output_norms = true,
           .norm_names = NormNames::kGemma,
           .rotated = RotatedBlocks::kWindowedIfAny,
           .windowed = WindowedBlocks::kAllButEveryNth,
           .full_every = 4,
           .configured_every = true,
           .lists_windowed_blocks = true,
           .kv_heads = 32,
           .context = 2048,
           .window = 4096,
           .norm_epsilon = 1e-5},
    Family{.architecture = "GraniteForCausalLM",
           .model_type = "granite",
           .biases = Biases::kIfConfigured,
           .multipliers = true,
           .context = 2048},
    Family{.architecture = "GraniteMoeHybridForCausalLM",
           .model_type = "granitemoehybrid",
           .biases = Biases::kIfConfigured,
           .mlp_names = MlpNames::kSharedMlp,
           .intermediate_key = "shared_intermediate_size",
           .hybrid = true,
           .fused_gate_up = true,
           .multipliers = true,
           .rotated = RotatedBlocks::kByType,
           .context = 2048},
    glm("GlmForCausalLM", "glm"),
    glm_4(),
    Family{.architecture = "Ernie4_5ForCausalLM",
           .model_type = "ernie4_5",
           .adjacent_pairs = true,
           .tied_head = true,
           .kv_heads = 2,
           .head_size = 128,
           .context = 131072,
           .norm_epsilon = 1e-5,
           .theta = 500000},
    Family{.architecture = "HeliumForCausalLM",
           .model_type = "helium",
           .biases = Biases::kQueryKeyValueIfConfigured,
           .adjacent_pairs = true,
           .sizes = {2560, 24, 20, 7040, 48000},
           .kv_heads = 20,
           .head_size = 128,
           .context = 4096,
           .norm_epsilon = 1e-8,
           .theta = 100000},
    Family{.architecture = "SmolLM3ForCausalLM",
           .model_type = "smollm3",
           .biases = Biases::kIfConfigured,
           .rotated = RotatedBlocks::kListed,
           .old_rope_type_first = true,
           .windowed = WindowedBlocks::kUnrotated,
           .lists_windowed_blocks = true,
           .tied_head = true,
           .kv_heads = 4,
           .context = 32768,
           .theta = 2000000},
    Family{.architecture = "Phi3ForCausalLM",
           .model_type = "phi3",
           .fused_query_key_value = true,
           .fused_gate_up = true,
           .partial_rotation = true,
           .long_rope = true,
           .windowed = WindowedBlocks::kAll,
           .context = 4096,
           .norm_epsilon = 1e-5},
    Family{.architecture = "GPTNeoXForCausalLM",
           .model_type = "gpt_neox",
           .activation = Activation::kGelu,
           .gated_mlp = false,
           .norm = Norm::kLayer,
           .norm_biases = true,
           .parallel_blocks = true,
           .configured_parallel = true,
           .parallel_norms = true,
           .biases = Biases::kIfConfigured,
           .biased = true,
           .mlp_biases = true,
           .naming = Naming::kGptNeoX,
           .epsilon_key = "layer_norm_eps",
           .theta_key = "rotary_emb_base",
           .rotated_part_key = "rotary_pct",
           .fused_query_key_value = true,
           .fused_by_head = true,
           .partial_rotation = true,
           .sizes = {6144, 44, 64, 24576, 50432},
           .context = 2048,
           .norm_epsilon = 1e-5,
           .rotated_part = 0.25},
    Family{.architecture = "PhiForCausalLM",
           .model_type = "phi",
           .activation = Activation::kGeluTanh,
           .gated_mlp = false,
           .norm = Norm::kLayer,
           .norm_biases = true,
           .parallel_blocks = true,
           .biases = Biases::kAll,
           .mlp_biases = true,
           .head_bias = true,
           .naming = Naming::kPhi,
           .epsilon_key = "layer_norm_eps",
           .partial_rotation = true,
           .sizes = {2048, 24, 32, 8192, 51200},
           .context = 2048,
           .norm_epsilon = 1e-5,
           .rotated_part = 0.5},
    Family{.architecture = "Starcoder2ForCausalLM",
           .model_type = "starcoder2",
           .activation = Activation::kGeluTanh,
           .gated_mlp = false,
           .norm = Norm::kLayer,
           .norm_biases = true,
           .biases = Biases::kEverywhereIfConfigured,
           .biased = true,
           .naming = Naming::kStarCoder2,
           .epsilon_key = "norm_epsilon",
           .windowed = WindowedBlocks::kAll,
           .sizes = {3072, 30, 24, 12288, 49152},
           .tied_head = true,
           .kv_heads = 2,
           .context = 4096,
           .norm_epsilon = 1e-5},
    Family{.architecture = "Qwen3_5ForCausalLM",
           .model_type = "qwen3_5_text",
           .query_key_norms = QueryKeyNorms::kByHead,
           .norms_from_one = true,
           .partial_rotation = true,
           .sectioned_rotation = true,
           .gated_attention = true,
           .delta_net = true,
           .full_every = 4,
           .sizes = {4096, 32, 16, 12288, 248320},
           .kv_heads = 4,
           .head_size = 256,
           .context = 32768,
           .rotated_part = 0.25},
};

}  // namespace

const Family* find_family(std::string_view architecture) {
  const auto* found = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& family) {
    return family.architecture == architecture;
  });
  return found == kFamilies.end() ? nullptr : found;
}

const Family* find_family_of_type(std::string_view model_type) {
  const auto* found = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& family) {
    return family.model_type == model_type;
  });
  return found == kFamilies.end() ? nullptr : found;
}

std::string supported_architectures() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) {
    names.push_back(family.architecture);
  }
  return fmt::format("{}, and the text part of {}", fmt::join(names, ", "), supported_wrappers());
}

std::vector<bool> rotated_by_default(const Family& family, std::int64_t blocks,
                                     std::int64_t interval) {
  std::vector<bool> rotated;
  for (std::int64_t i = 0; i < blocks; ++i) {
    rotated.push_back(family.rotated != RotatedBlocks::kListed || (i + 1) % interval != 0);
  }
  return rotated;
}

std::vector<bool> rotated_with_windows(const Family& family, const std::vector<bool>& rotated,
                                       const std::vector<bool>& windowed, std::int64_t window) {
  if (family.rotated != RotatedBlocks::kWindowed &&
      family.rotated != RotatedBlocks::kWindowedIfAny) {
    return rotated;
  }
  return window > 0
             ? windowed
             : std::vector<bool>(rotated.size(), family.rotated == RotatedBlocks::kWindowedIfAny);
}

std::vector<bool> windowed_by_default(const Family& family, const std::vector<bool>& rotated,
                                      std::int64_t first, std::int64_t every) {
  const auto is_windowed = [&](std::int64_t block) {
    switch (family.windowed) {
      case WindowedBlocks::kNone:
        return false;
      case WindowedBlocks::kAll:
        return true;
      case WindowedBlocks::kFromConfiguredBlock:
        return block >= first;
      case WindowedBlocks::kUnrotated:
        return !rotated[static_cast<std::size_t>(block)];
      case WindowedBlocks::kAllButEveryNth:
        return (block + 1) % every != 0 &&
               !(family.ends_with_full_block &&
                 block + 1 == static_cast<std::int64_t>(rotated.size()));
      case WindowedBlocks::kAllButEveryNthFrom0:
        return block % every != 0;
    }
    throw BugError("families: unknown rule for windows");
  };
  std::vector<bool> windowed;
  for (std::size_t i = 0; i < rotated.size(); ++i) {
    windowed.push_back(is_windowed(static_cast<std::int64_t>(i)));
  }
  return windowed;
}

void apply_family(const Family& family, ModelConfig& config) {
  config.architecture = family.architecture;
  config.activation = family.activation;
  config.gated_mlp = family.gated_mlp;
  config.norm = family.norm;
  config.norm_biases = family.norm_biases;
  config.parallel_blocks = family.parallel_blocks;
  config.parallel_norms = family.parallel_norms;
  config.mlp_biases = family.mlp_biases;
  config.head_bias = family.head_bias;
  config.query_key_norms = family.query_key_norms;
  config.value_norms = family.value_norms;
  config.input_norms = family.input_norms;
  config.output_norms = family.output_norms;
  config.norm_names = family.norm_names;
  config.mlp_names = family.mlp_names;
  config.naming = family.naming;
  config.norms_from_one = family.norms_from_one;
  config.block_scales = family.block_scales;
  config.fused_query_key_value = family.fused_query_key_value;
  config.fused_by_head = family.fused_by_head;
  config.fused_gate_up = family.fused_gate_up;
  config.gated_attention = family.gated_attention;
  config.query_key_value_bias =
      family.biases == Biases::kQueryKeyValue || family.biases == Biases::kAll;
  config.attention_output_bias = family.biases == Biases::kAll;
  if (family.query_scalar_value != 0) {
    config.query_pre_attention_scalar = family.query_scalar_value;
  }
  if (family.embedding_times_root) {
    config.embedding_scale = std::sqrt(static_cast<double>(config.hidden));
  }
}

}  // namespace bipo
