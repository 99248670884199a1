#include "trainer/model/gguf/gguf_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"
#include "trainer/model/gguf/gguf_keys.hpp"

namespace bipo {
namespace {

// SmolLM3's interval, which its files do not store.
constexpr std::int64_t kUnrotatedInterval = 4;

// Computations that some models of an architecture have, by the keys that are 0 in the others.
void check_switches(ArchitectureKeys& keys) {
  keys.require_size("attention.shared_kv_layers", 0, "each block has keys and values of its own");
  keys.require_size("embedding_length_per_layer_input", 0, "no embeddings for each block");
  keys.require_size("expert_count", 0, "a dense model");
  keys.require_size("expert_used_count", 0, "a dense model");
}

// Returns the number of key/value heads in each of the blocks of one kind, which is the same.
std::int64_t kv_heads_of_kind(const ArchitectureKeys& keys, const char* key,
                              const std::vector<std::int64_t>& by_block,
                              const std::vector<bool>& windowed, bool is_windowed) {
  std::int64_t found = 0;
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    if (windowed[i] == is_windowed) {
      if (by_block[i] < 1 || (found != 0 && by_block[i] != found)) {
        keys.refuse(
            fmt::format("metadata {} is not the same positive number in all blocks {} a "
                        "window; this is not supported",
                        keys.full(key), is_windowed ? "with" : "without"));
      }
      found = by_block[i];
    }
  }
  return found;
}

// Reads the key/value heads, one number or one for each block.
void read_kv_heads(ArchitectureKeys& keys, const Family& family, const std::vector<bool>& windowed,
                   ModelConfig& config, AttentionKind& global) {
  const char* const key = "attention.head_count_kv";
  const GgufValue* value = keys.find(key);
  if (!family.heads_by_kind || value == nullptr || !value->is_array()) {
    config.kv_heads = keys.size_or(key, config.heads);
  } else {
    const auto by_block = value->integers().value_or(std::vector<std::int64_t>());
    if (by_block.size() != windowed.size()) {
      keys.refuse(fmt::format("metadata {} must be {} integers, one for each block", keys.full(key),
                              windowed.size()));
    }
    global.kv_heads = kv_heads_of_kind(keys, key, by_block, windowed, false);
    config.kv_heads = kv_heads_of_kind(keys, key, by_block, windowed, true);
    if (config.kv_heads == 0) {
      config.kv_heads = global.kv_heads;
    }
  }
  for (const std::int64_t kv_heads : {config.kv_heads, kv_heads_of(config, global)}) {
    if (config.heads % kv_heads != 0) {
      keys.refuse(fmt::format("metadata {} {} is not a multiple of {} {}",
                              keys.full("attention.head_count"), config.heads, keys.full(key),
                              kv_heads));
    }
  }
}

void read_sizes(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  config.hidden = keys.size("embedding_length");
  config.blocks = keys.size("block_count");
  config.heads = keys.size("attention.head_count");
  config.intermediate = keys.size("feed_forward_length");
  config.context = keys.size("context_length");
  if (static_cast<std::uint64_t>(config.blocks) > file.tensors().size()) {
    keys.refuse(fmt::format("metadata {} is {}, but there are {} tensors in all",
                            keys.full("block_count"), config.blocks, file.tensors().size()));
  }
}

// Returns how many elements of a head turn with position; 0: all.
std::int64_t read_rotated(ArchitectureKeys& keys, const Family& family, std::int64_t head_size) {
  if (!family.partial_rotation) {
    keys.require_size("rope.dimension_count", head_size, "the whole head");
    return 0;
  }
  const std::int64_t rotated = keys.size_or("rope.dimension_count", head_size);
  if (rotated > head_size || rotated % 2 != 0) {
    keys.refuse(fmt::format("metadata {} is {}, must be even and at most the head size {}",
                            keys.full("rope.dimension_count"), rotated, head_size));
  }
  return rotated;
}

void read_head_size(ArchitectureKeys& keys, ModelConfig& config) {
  if (!keys.has("attention.key_length") && config.hidden % config.heads != 0) {
    keys.refuse(fmt::format("metadata {} {} is not a multiple of {} {}, and there is no {}",
                            keys.full("embedding_length"), config.hidden,
                            keys.full("attention.head_count"), config.heads,
                            keys.full("attention.key_length")));
  }
  config.head_size = keys.size_or("attention.key_length", config.hidden / config.heads);
  if (config.head_size % 2 != 0) {
    keys.refuse(fmt::format("head size {} is odd; rotary embedding needs pairs", config.head_size));
  }
  if (config.head_size > kLargestGgufSize / config.heads) {
    keys.refuse(fmt::format("{} heads of size {} are too many", config.heads, config.head_size));
  }
  keys.require_size("attention.value_length", config.head_size, "the size of a key");
}

// In families whose global blocks have other heads, the keys without an ending are those of the
// global blocks.
void read_global_heads(ArchitectureKeys& keys, const GgufFile& file,
                       const std::vector<bool>& windowed, ModelConfig& config,
                       AttentionKind& global) {
  global.head_size = config.head_size;
  config.head_size = keys.size_or("attention.key_length_swa", global.head_size);
  keys.require_size("attention.value_length_swa", config.head_size, "the size of a key");
  keys.require_size("rope.dimension_count_swa", config.head_size, "the whole head");
  if (config.head_size % 2 != 0 || config.head_size > kLargestGgufSize / config.heads) {
    keys.refuse(
        fmt::format("{} heads of size {} are too many or odd", config.heads, config.head_size));
  }
  const auto first = std::find(windowed.begin(), windowed.end(), false);
  if (first != windowed.end()) {
    const std::string values = gguf_tensor_name(Role::kValue, first - windowed.begin());
    global.values_are_keys = file.find_tensor(values) == nullptr;
  }
}

void read_vocabulary(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  const std::string name = kGgufEmbedding;
  const GgufTensor* embedding = file.find_tensor(name);
  if (embedding == nullptr || embedding->shape.size() != 2 ||
      embedding->shape[0] > kLargestGgufSize) {
    keys.refuse(fmt::format("tensor {} is missing or not an embedding matrix", name));
  }
  config.vocabulary = embedding->shape[0];
  keys.require_size("vocab_size", config.vocabulary, "the rows of the embedding");
  config.tied_head = file.find_tensor(kGgufHead) == nullptr;
}

std::vector<float> stored_rope_divisors(const ArchitectureKeys& keys, const GgufFile& file,
                                        const char* name, std::int64_t count) {
  const GgufTensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) {
    return {};
  }
  if (tensor->shape != std::vector{count} || tensor->format.type != GgmlType::kF32) {
    keys.refuse(fmt::format("tensor {} must be {} float32 numbers, one for each rotary frequency",
                            name, count));
  }
  std::vector<float> divisors(static_cast<std::size_t>(count));
  dequantize(tensor->format, tensor->data.data(), {0, count}, divisors.data());
  return divisors;
}

void check_rope_divisors(const ArchitectureKeys& keys, const std::vector<float>& divisors) {
  if (!std::all_of(divisors.begin(), divisors.end(),
                   [](float divisor) { return divisor > 0 && std::isfinite(divisor); })) {
    keys.refuse(fmt::format("a divisor of the rotary frequencies ({}, {} and {}) is not positive",
                            kGgufRopeDivisors, kGgufShortRopeDivisors,
                            keys.full("rope.scaling.factor")));
  }
}

// Beyond the original context other frequencies and another factor apply, so it is the longest
// context that this program accepts.
void read_long_rope(ArchitectureKeys& keys, RotaryEmbedding& rotary, ModelConfig& config) {
  const char* const factor_key = "rope.scaling.attn_factor";
  const std::int64_t original =
      keys.size_or("rope.scaling.original_context_length", config.context);
  rotary.factor = keys.positive_or(factor_key, 1);
  if (original < config.context && !keys.has(factor_key)) {
    config.warnings.push_back(keys.located(
        fmt::format("metadata {} is missing and 1 is used, as llama.cpp does; transformers "
                    "computes it from {} {} and {} {}",
                    keys.full(factor_key), keys.full("context_length"), config.context,
                    keys.full("rope.scaling.original_context_length"), original)));
  }
  config.context = std::min(config.context, original);
  keys.ignore("rope.scaling.type");
}

// Divides all positions, and so all frequencies, by one number.
void scale_linearly(double factor, std::int64_t pairs, RotaryEmbedding& rotary) {
  if (factor == 1) {
    return;
  }
  rotary.divisors.resize(static_cast<std::size_t>(pairs), 1.0F);
  for (float& divisor : rotary.divisors) {
    divisor = static_cast<float>(divisor * factor);
  }
}

// llama.cpp's rule: the turned elements are multiplied by 0.1 ln(s) + 1 (arXiv 2309.00071, equation
// 22) times attn_factor.
void read_yarn(ArchitectureKeys& keys, RotaryEmbedding& rotary, const ModelConfig& config) {
  const double factor = keys.positive("rope.scaling.factor");
  const double magnitude = factor <= 1 ? 1 : 0.1 * std::log(factor) + 1;
  rotary.factor = keys.positive_or("rope.scaling.attn_factor", 1) * magnitude;
  rotary.scaling = YarnRopeScaling{
      factor, keys.positive_or("rope.scaling.yarn_beta_fast", 32),
      keys.positive_or("rope.scaling.yarn_beta_slow", 1),
      static_cast<double>(keys.size_or("rope.scaling.original_context_length", config.context))};
  keys.require_number("rope.scaling.yarn_ext_factor", 1);
  keys.require_number("rope.scaling.yarn_log_multiplier", 0);
  if (keys.has("rope.scaling.yarn_attn_factor")) {
    keys.refuse(fmt::format(
        "metadata {} is not supported: for transformers it replaces the factor that YaRN computes, "
        "for llama.cpp it multiplies it; use the model's Hugging Face directory",
        keys.full("rope.scaling.yarn_attn_factor")));
  }
  if (rotary.theta <= 1) {
    keys.refuse(fmt::format("YaRN needs a metadata {} above 1", keys.full("rope.freq_base")));
  }
  if (!rotary.divisors.empty()) {
    keys.refuse(
        fmt::format("YaRN together with the tensor {} is not supported", kGgufRopeDivisors));
  }
}

void read_rope_scaling(ArchitectureKeys& keys, std::int64_t pairs, RotaryEmbedding& rotary,
                       const ModelConfig& config) {
  const GgufValue* type = keys.find("rope.scaling.type");
  // Files older than this key use linear scaling by their factor.
  const auto name = type == nullptr ? "linear" : type->text().value_or("of another type");
  if (name == "yarn") {
    read_yarn(keys, rotary, config);
    return;
  }
  const char* old_key = "rope.scale_linear";
  const double factor = keys.positive_or("rope.scaling.factor", keys.positive_or(old_key, 1));
  if (name == "linear") {
    scale_linearly(factor, pairs, rotary);
  } else if (name != "none") {
    keys.refuse(
        fmt::format("metadata {} is not supported; supported: none, linear, yarn, and factors "
                    "in the tensor {}",
                    keys.full("rope.scaling.type"), kGgufRopeDivisors));
  }
  keys.require_number("rope.scaling.attn_factor", 1);
}

// Refuses tensors of rotary divisors that would not be read.
void check_rope_tensors(const ArchitectureKeys& keys, const GgufFile& file, bool long_rope) {
  const auto has = [&](const char* name) { return file.find_tensor(name) != nullptr; };
  if (has(kGgufShortRopeDivisors) != has(kGgufLongRopeDivisors)) {
    keys.refuse(fmt::format("of the tensors {} and {} one is missing", kGgufShortRopeDivisors,
                            kGgufLongRopeDivisors));
  }
  if (!has(kGgufShortRopeDivisors)) {
    return;
  }
  if (!long_rope) {
    keys.refuse(
        fmt::format("the tensors {} and {} (LongRoPE) are not supported in this "
                    "architecture",
                    kGgufShortRopeDivisors, kGgufLongRopeDivisors));
  }
  if (has(kGgufRopeDivisors)) {
    keys.refuse(fmt::format("the tensors {} and {} exclude each other", kGgufShortRopeDivisors,
                            kGgufRopeDivisors));
  }
}

double read_theta(ArchitectureKeys& keys, const Family& family, ModelConfig& config) {
  constexpr double kTheirs = 10000;
  const char* const key = "rope.freq_base";
  if (!keys.has(key) && family.theta != kTheirs) {
    config.warnings.push_back(keys.located(
        fmt::format("metadata {} is missing and {} is used, transformers' value for a {} that says "
                    "nothing; llama.cpp takes {}",
                    keys.full(key), family.theta, family.architecture, kTheirs)));
  }
  return keys.positive_or(key, family.theta);
}

// Reads which of the first pairs of a head turn: converters write so large a divisor for the others
// that they stand still.
void read_turning_pairs(const ArchitectureKeys& keys, const GgufFile& file, std::int64_t head_size,
                        RotaryEmbedding& rotary) {
  constexpr float kStill = 1e30F;
  rotary.divisors = stored_rope_divisors(keys, file, kGgufRopeDivisors, head_size / 2);
  const auto end = std::find_if(rotary.divisors.begin(), rotary.divisors.end(),
                                [](float divisor) { return divisor >= kStill; });
  if (end == rotary.divisors.begin() ||
      !std::all_of(end, rotary.divisors.end(), [](float divisor) { return divisor >= kStill; })) {
    keys.refuse(fmt::format("tensor {} is missing, or does not begin with the pairs that turn",
                            kGgufRopeDivisors));
  }
  rotary.divisors.erase(end, rotary.divisors.end());
  rotary.rotated = 2 * static_cast<std::int64_t>(rotary.divisors.size());
  rotary.over_whole_head = true;
  if (std::all_of(rotary.divisors.begin(), rotary.divisors.end(),
                  [](float divisor) { return divisor == 1; })) {
    rotary.divisors.clear();
  }
}

RotaryEmbedding read_rope(ArchitectureKeys& keys, const GgufFile& file, const Family& family,
                          std::int64_t head_size, ModelConfig& config) {
  check_rope_tensors(keys, file, family.long_rope);
  RotaryEmbedding rotary;
  rotary.theta = read_theta(keys, family, config);
  rotary.adjacent_pairs = family.adjacent_pairs;
  rotary.rotated = read_rotated(keys, family, head_size);
  const std::int64_t pairs = (rotary.rotated == 0 ? head_size : rotary.rotated) / 2;
  if (family.proportional_part != 0) {
    read_turning_pairs(keys, file, head_size, rotary);
  } else if (file.find_tensor(kGgufShortRopeDivisors) != nullptr) {
    rotary.divisors = stored_rope_divisors(keys, file, kGgufShortRopeDivisors, pairs);
    read_long_rope(keys, rotary, config);
  } else {
    rotary.divisors = stored_rope_divisors(keys, file, kGgufRopeDivisors, pairs);
    read_rope_scaling(keys, pairs, rotary, config);
  }
  check_rope_divisors(keys, rotary.divisors);
  // Both describe the origin of the scaling; linear scaling does not use them.
  keys.ignore("rope.scaling.original_context_length");
  keys.ignore("rope.scaling.finetuned");
  return rotary;
}

// Returns the number whose root divides the scores, by llama.cpp's rule: D / H in the 27B models,
// which it recognises by their number of blocks, else the head size.
double query_scalar(const Family& family, const ModelConfig& config) {
  constexpr std::int64_t kBlocksOfGemma2At27B = 46;
  constexpr std::int64_t kBlocksOfGemma3At27B = 62;
  const bool is_27b =
      config.blocks == (family.query_key_norms == QueryKeyNorms::kByHead ? kBlocksOfGemma3At27B
                                                                         : kBlocksOfGemma2At27B);
  return static_cast<double>(is_27b ? config.hidden / config.heads : config.head_size);
}

// llama.cpp's rule for what is missing: as if the model had no such number.
void read_multipliers(ArchitectureKeys& keys, ModelConfig& config) {
  if (keys.has("attention.scale")) {
    config.score_scale = keys.positive("attention.scale");
  }
  config.embedding_scale = keys.positive_or("embedding_scale", 1);
  config.residual_scale = keys.positive_or("residual_scale", 1);
  config.logit_scale = 1 / keys.positive_or("logit_scale", 1);
}

// Returns [N] whether each block has the window: by a list in the file where the family has one,
// else by the family's rule.
std::vector<bool> windowed_blocks(ArchitectureKeys& keys, const Family& family,
                                  std::int64_t blocks) {
  const GgufValue* pattern = keys.find("attention.sliding_window_pattern");
  if (family.heads_by_kind && pattern != nullptr && pattern->booleans() &&
      static_cast<std::int64_t>(pattern->booleans()->size()) == blocks) {
    return *pattern->booleans();
  }
  return windowed_by_default(family, rotated_by_default(family, blocks, kUnrotatedInterval), blocks,
                             family.full_every);
}

void read_attention(ArchitectureKeys& keys, const Family& family, const std::vector<bool>& windowed,
                    const AttentionKind& global, ModelConfig& config) {
  if (family.query_scalar) {
    config.query_pre_attention_scalar = query_scalar(family, config);
  }
  if (family.logit_scale_value != 0) {
    config.logit_scale = keys.positive_or("logit_scale", family.logit_scale_value);
  }
  if (family.attention_soft_cap) {
    config.attention_soft_cap =
        keys.positive_or("attn_logit_softcapping", family.attention_soft_cap_value);
  }
  if (family.logit_soft_cap) {
    const char* const key = "final_logit_softcapping";
    const GgufValue* value = keys.find(key);
    const bool is_off = value != nullptr && value->number() == 0.0;
    config.logit_soft_cap = is_off ? 0 : keys.positive_or(key, family.logit_soft_cap_value);
  }
  if (family.local_theta != 0) {
    config.rotary.push_back({.theta = keys.positive_or("rope.freq_base_swa", family.local_theta)});
  }
  if (family.multipliers) {
    read_multipliers(keys, config);
  }
  const char* const window_key = "attention.sliding_window";
  // The smaller models of a family whose positions depend on windows have none.
  const bool may_lack_window =
      family.windowed == WindowedBlocks::kAll || family.rotated == RotatedBlocks::kWindowedIfAny;
  const std::int64_t window =
      family.windowed != WindowedBlocks::kAll && family.windowed != WindowedBlocks::kAllButEveryNth
          ? 0
      : may_lack_window ? keys.size_or_zero(window_key)
                        : keys.size(window_key);
  const std::vector<bool> rotated = rotated_by_default(family, config.blocks, kUnrotatedInterval);
  set_attention_kinds(rotated_with_windows(family, rotated, windowed, window), windowed, global,
                      {.window = window}, config);
}

// The names of the keys are those of state space models.
void read_delta_net(ArchitectureKeys& keys, const Family& family, ModelConfig& config) {
  if (!family.delta_net) {
    return;
  }
  DeltaNetSizes sizes;
  sizes.key_heads = keys.size("ssm.group_count");
  sizes.value_heads = keys.size("ssm.time_step_rank");
  sizes.key_size = keys.size("ssm.state_size");
  sizes.taps = keys.size("ssm.conv_kernel");
  const std::int64_t columns = keys.size("ssm.inner_size");
  if (sizes.value_heads % sizes.key_heads != 0 || columns % sizes.value_heads != 0) {
    keys.refuse(fmt::format("metadata {} {} must be a multiple of {} {}, and {} {} one of {}",
                            keys.full("ssm.time_step_rank"), sizes.value_heads,
                            keys.full("ssm.group_count"), sizes.key_heads,
                            keys.full("ssm.inner_size"), columns, sizes.value_heads));
  }
  if (sizes.taps < 2 || sizes.taps > static_cast<std::int64_t>(kMostConvolutionTaps)) {
    keys.refuse(fmt::format("metadata {} is {}, must be 2 to {}", keys.full("ssm.conv_kernel"),
                            sizes.taps, kMostConvolutionTaps));
  }
  sizes.value_size = columns / sizes.value_heads;
  const std::int64_t every = keys.size_or("full_attention_interval", family.full_every);
  std::vector<bool> recurrent;
  for (std::int64_t block = 0; block < config.blocks; ++block) {
    recurrent.push_back((block + 1) % every != 0);
  }
  set_recurrent_blocks(recurrent, sizes, config);
  keys.ignore("rope.dimension_sections");  // of positions in images
}

// Returns whether the key `attention.sliding_window_pattern` gives the window to other blocks than
// this program does: a number N takes it from every N-th block, a list says it block by block.
bool has_other_windows(const GgufValue& pattern, const ModelConfig& config) {
  const auto blocks = static_cast<std::size_t>(config.blocks);
  const std::optional<std::int64_t> interval = pattern.integer();
  std::vector<bool> said = pattern.booleans().value_or(std::vector<bool>{});
  if (interval && *interval >= 0) {
    for (std::int64_t i = 0; i < config.blocks; ++i) {
      said.push_back(*interval == 0 || (i + 1) % *interval != 0);
    }
  }
  std::vector<bool> ours;
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::size_t kind = config.kind_of_block.empty() ? 0 : config.kind_of_block[i];
    ours.push_back(config.attention_kinds[kind].window != 0);
  }
  return said != ours;
}

void check_windows(ArchitectureKeys& keys, const Family& family, const ModelConfig& config) {
  const char* const pattern_key = "attention.sliding_window_pattern";
  const GgufValue* pattern = keys.find(pattern_key);
  if (pattern != nullptr && has_other_windows(*pattern, config)) {
    keys.refuse(
        fmt::format("metadata {} gives the window to other blocks than {} has it in; this "
                    "is not supported",
                    keys.full(pattern_key), family.architecture));
  }
  // A window of the whole context hides nothing.
  const char* const window_key = "attention.sliding_window";
  if (family.windowed == WindowedBlocks::kAllButEveryNth ||
      family.windowed == WindowedBlocks::kAll) {
    return;
  }
  const GgufValue* window = keys.find(window_key);
  if (window != nullptr && window->integer() != 0 &&
      window->integer().value_or(1) < config.context) {
    keys.refuse(
        fmt::format("metadata {} is not supported in this architecture", keys.full(window_key)));
  }
}

// Keys of other architectures, which may stand in a file with the value that changes nothing.  A
// key with another value stays unknown, and so is refused.
void accept_neutral_values(ArchitectureKeys& keys, const ModelConfig& config) {
  for (const char* key :
       {"expert_shared_count", "expert_feed_forward_length", "expert_shared_feed_forward_length",
        "expert_group_count", "expert_group_used_count", "expert_gating_func",
        "leading_dense_block_count", "nextn_predict_layers", "n_deepstack_layers",
        "attention.max_alibi_bias", "attention.clamp_kqv", "attn_logit_softcapping",
        "final_logit_softcapping", "router_logit_softcapping"}) {
    keys.accept_number(key, {0});
  }
  const double head_scale =
      config.query_pre_attention_scalar.value_or(static_cast<double>(config.head_size));
  // llama.cpp takes 0 for a key that is not there.
  keys.accept_number("logit_scale", {0, 1});
  keys.accept_number("residual_scale", {0, 1});
  keys.accept_number("attention.output_scale", {0, 1});
  keys.accept_number("embedding_scale", {0, config.embedding_scale});
  keys.accept_number("attention.scale", {0, 1 / std::sqrt(head_scale)});
  const auto head = static_cast<double>(config.head_size);
  for (const char* key : {"attention.key_length_swa", "attention.value_length_swa"}) {
    keys.accept_number(key, {head});
  }
  const std::int64_t rotated = config.rotary.front().rotated;
  keys.accept_number("rope.dimension_count_swa",
                     {rotated == 0 ? head : static_cast<double>(rotated)});
  keys.accept_number("embedding_length_out", {static_cast<double>(config.hidden)});
}

// Biases have no key; their tensors tell, in all blocks or in none.
void read_biases(const GgufFile& file, const Family& family, ModelConfig& config) {
  if (family.biases == Biases::kNone || family.biases == Biases::kQueryKeyValue ||
      family.biases == Biases::kAll) {
    return;
  }
  const auto has = [&](Role role) {
    return file.find_tensor(gguf_tensor_place(config, role).name) != nullptr;
  };
  config.query_key_value_bias =
      has(Role::kQueryBias) || has(Role::kKeyBias) || has(Role::kValueBias);
  config.attention_output_bias = has(Role::kAttentionOutputBias);
  if (family.biases == Biases::kEverywhereIfConfigured) {
    config.mlp_biases = has(Role::kUpBias) || has(Role::kDownBias);
  }
}

// Families with a choice say which; in the others it would be another model.
void read_parallel_blocks(ArchitectureKeys& keys, const Family& family, ModelConfig& config) {
  constexpr const char* kKey = "use_parallel_residual";
  if (!family.configured_parallel) {
    keys.require_truth(kKey, false);
    return;
  }
  const GgufValue* value = keys.find(kKey);
  const std::optional<bool> parallel = value == nullptr ? std::nullopt : value->boolean();
  if (!parallel) {
    keys.refuse(fmt::format("metadata {} is missing or neither true nor false", keys.full(kKey)));
  }
  config.parallel_blocks = *parallel;
}

void check_variations(ArchitectureKeys& keys) {
  keys.require_truth("attention.causal", true);
  // The row order, which is the same in every file of the architecture.
  keys.ignore("tensor_data_layout");
  // The epsilon of the other kind of norm.
  keys.ignore("attention.layer_norm_epsilon");
  keys.ignore("attention.layer_norm_rms_epsilon");
}

void warn_of_keys_not_used(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  const GgufValue* pooling = keys.find("pooling_type");
  if (pooling != nullptr && pooling->integer() != 0) {
    config.warnings.push_back(keys.located(fmt::format(
        "metadata {} is not used: the file is for embeddings of whole texts, here it is "
        "a language model",
        keys.full("pooling_type"))));
  }
  if (const std::vector<std::string> others = keys.of_other_architectures(); !others.empty()) {
    config.warnings.push_back(
        keys.located(fmt::format("metadata {} is not used: the keys of this file's architecture "
                                 "begin with {}",
                                 fmt::join(others, ", "), keys.full(""))));
  }
  const char* const repeat_key = "general.sampling.penalty_repeat";
  const GgufValue* repeat = file.find_value(repeat_key);
  if (repeat != nullptr && repeat->number() != 1.0) {
    config.warnings.push_back(keys.located(
        fmt::format("metadata {} is not used: texts are generated without it", repeat_key)));
  }
}

void check_quantization_version(const GgufFile& file) {
  constexpr std::int64_t kVersion = 2;
  const GgufValue* version = file.find_value("general.quantization_version");
  if (version != nullptr && version->integer() != kVersion) {
    throw UserError(fmt::format(
        "{}: general.quantization_version is not {}; other layouts of blocks are not supported",
        file.path().string(), kVersion));
  }
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  const GgufArchitecture& architecture = architecture_of(file);
  const Family& family = *find_family(architecture.family);
  check_quantization_version(file);
  ArchitectureKeys keys(file, architecture.name);
  if (file.tensors().empty()) {
    keys.refuse("holds no tensors: it describes a vocabulary, not a model");
  }
  ModelConfig config;
  check_switches(keys);
  read_sizes(keys, file, config);
  const std::vector<bool> windowed = windowed_blocks(keys, family, config.blocks);
  AttentionKind global;
  read_kv_heads(keys, family, windowed, config, global);
  read_head_size(keys, config);
  if (family.heads_by_kind) {
    read_global_heads(keys, file, windowed, config, global);
  }
  read_vocabulary(keys, file, config);
  config.norm_epsilon =
      keys.positive(family.norm == Norm::kLayer ? "attention.layer_norm_epsilon"
                                                : "attention.layer_norm_rms_epsilon");
  apply_family(family, config);
  read_biases(file, family, config);
  read_parallel_blocks(keys, family, config);
  config.norms_from_one = false;  // converters add the one
  config.rotary = {read_rope(keys, file, family, head_size_of(config, global), config)};
  read_attention(keys, family, windowed, global, config);
  read_delta_net(keys, family, config);
  check_variations(keys);
  check_windows(keys, family, config);
  accept_neutral_values(keys, config);
  warn_of_keys_not_used(keys, file, config);
  keys.refuse_unknown();
  return config;
}

}  // namespace bipo
