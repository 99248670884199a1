#include "trainer/model/architecture/families.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::array kFamilies = {
    Family{.architecture = "LlamaForCausalLM",
           .model_type = "llama",
           .biases = Biases::kIfConfigured,
           .old_rope_type_first = true,
           .context = 2048},
    Family{.architecture = "MistralForCausalLM",
           .model_type = "mistral",
           .windowed = WindowedBlocks::kAll,
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
           .query_key_norms = true,
           .old_rope_type_first = true,
           .windowed = WindowedBlocks::kFromConfiguredBlock,
           .lists_windowed_blocks = true,
           .kv_heads = 32,
           .head_size = 128,
           .context = 32768,
           .window = 4096},
    Family{.architecture = "Gemma2ForCausalLM",
           .model_type = "gemma2",
           .activation = Activation::kGeluTanh,
           .biases = Biases::kIfConfigured,
           .output_norms = true,
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
           .logit_soft_cap_value = 30},
    Family{.architecture = "Gemma3ForCausalLM",
           .model_type = "gemma3_text",
           .activation = Activation::kGeluTanh,
           .biases = Biases::kIfConfigured,
           .query_key_norms = true,
           .output_norms = true,
           .norms_from_one = true,
           .embedding_times_root = true,
           .logit_soft_cap = true,
           .query_scalar = true,
           .windowed = WindowedBlocks::kAllButEveryNth,
           .full_every = 6,
           .configured_every = true,
           .lists_windowed_blocks = true,
           .local_theta = 10000,
           .tied_head = true,
           .kv_heads = 4,
           .head_size = 256,
           .context = 131072,
           .window = 4096,
           .theta = 1000000,
           .query_scalar_value = 256},
    Family{.architecture = "SmolLM3ForCausalLM",
           .model_type = "smollm3",
           .biases = Biases::kIfConfigured,
           .unrotated_blocks = true,
           .old_rope_type_first = true,
           .windowed = WindowedBlocks::kUnrotated,
           .lists_windowed_blocks = true,
           .tied_head = true,
           .kv_heads = 4,
           .context = 32768,
           .theta = 2000000},
    Family{.architecture = "Phi3ForCausalLM",
           .model_type = "phi3",
           .fused_projections = true,
           .partial_rotation = true,
           .long_rope = true,
           .windowed = WindowedBlocks::kAll,
           .context = 4096,
           .norm_epsilon = 1e-5},
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
  return fmt::format("{}", fmt::join(names, ", "));
}

std::vector<bool> rotated_by_default(const Family& family, std::int64_t blocks,
                                     std::int64_t interval) {
  std::vector<bool> rotated;
  for (std::int64_t i = 0; i < blocks; ++i) {
    rotated.push_back(!family.unrotated_blocks || (i + 1) % interval != 0);
  }
  return rotated;
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
        return (block + 1) % every != 0;
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
  config.query_key_norms = family.query_key_norms;
  config.output_norms = family.output_norms;
  config.norms_from_one = family.norms_from_one;
  config.fused_projections = family.fused_projections;
  config.query_key_value_bias = family.biases == Biases::kQueryKeyValue;
  if (family.embedding_times_root) {
    config.embedding_scale = std::sqrt(static_cast<double>(config.hidden));
  }
}

}  // namespace bipo
