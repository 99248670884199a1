#include "trainer/model/gguf/gguf_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"

namespace bipo {
namespace {

// Far above any model's sizes; products of two sizes do not overflow.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 24;

// SmolLM3's interval, which its files do not store.
constexpr std::int64_t kUnrotatedInterval = 4;

// Reads the keys of one architecture and remembers which ones it has read.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufFile& file, const std::string& architecture)
      : file_(file), prefix_(architecture + ".") {}

  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("{}: {}", file_.path().string(), what));
  }

  std::string full(const char* key) const { return prefix_ + key; }

  const GgufValue* find(const char* key) {
    understood_.insert(full(key));
    return file_.find_value(full(key));
  }

  bool has(const char* key) { return find(key) != nullptr; }

  std::int64_t size(const char* key) {
    const GgufValue* value = find(key);
    if (value == nullptr) {
      refuse(fmt::format("metadata {} is missing", full(key)));
    }
    const std::int64_t size = value->integer().value_or(0);
    if (size < 1 || size > kLargestSize) {
      refuse(fmt::format("metadata {} must be one integer from 1 to {}", full(key), kLargestSize));
    }
    return size;
  }

  std::int64_t size_or(const char* key, std::int64_t otherwise) {
    return has(key) ? size(key) : otherwise;
  }

  // For keys that some converters omit and others write as 0.
  std::int64_t size_or_zero(const char* key) {
    const GgufValue* value = find(key);
    return value == nullptr || value->integer() == 0 ? 0 : size(key);
  }

  double positive(const char* key) {
    const GgufValue* value = find(key);
    if (value == nullptr) {
      refuse(fmt::format("metadata {} is missing", full(key)));
    }
    const double number = value->number().value_or(0);
    if (!(number > 0) || !std::isfinite(number)) {
      refuse(fmt::format("metadata {} must be a positive number", full(key)));
    }
    return number;
  }

  double positive_or(const char* key, double otherwise) {
    return has(key) ? positive(key) : otherwise;
  }

  // Refuse any value but the one that this program implements; the key may be absent.
  void require_size(const char* key, std::int64_t expected, const char* because) {
    if (has(key) && find(key)->integer() != expected) {
      refuse(fmt::format("metadata {} is not {}, {}; this is not supported", full(key), expected,
                         because));
    }
  }
  void require_number(const char* key, double expected) {
    if (has(key) && find(key)->number() != expected) {
      refuse(fmt::format("metadata {} is not {}; this is not supported", full(key), expected));
    }
  }
  void require_truth(const char* key, bool expected) {
    if (has(key) && find(key)->boolean() != expected) {
      refuse(fmt::format("metadata {} is not {}; this is not supported", full(key), expected));
    }
  }

  void ignore(const char* key) { understood_.insert(full(key)); }

  void refuse_unknown() const {
    std::vector<std::string> unknown;
    for (const auto& [key, value] : file_.metadata()) {
      if (key.starts_with(prefix_) && !understood_.contains(key)) {
        unknown.push_back(key);
      }
    }
    if (!unknown.empty()) {
      refuse(fmt::format(
          "metadata {} is not known to this program and may change what the model computes; it is "
          "not ignored",
          fmt::join(unknown, ", ")));
    }
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> understood_;
};

void read_sizes(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  config.hidden = keys.size("embedding_length");
  config.blocks = keys.size("block_count");
  config.heads = keys.size("attention.head_count");
  config.kv_heads = keys.size_or("attention.head_count_kv", config.heads);
  config.intermediate = keys.size("feed_forward_length");
  config.context = keys.size("context_length");
  if (static_cast<std::uint64_t>(config.blocks) > file.tensors().size()) {
    keys.refuse(fmt::format("metadata {} is {}, but there are {} tensors in all",
                            keys.full("block_count"), config.blocks, file.tensors().size()));
  }
  if (config.heads % config.kv_heads != 0) {
    keys.refuse(fmt::format("metadata {} {} is not a multiple of {} {}",
                            keys.full("attention.head_count"), config.heads,
                            keys.full("attention.head_count_kv"), config.kv_heads));
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
  if (config.head_size > kLargestSize / config.heads) {
    keys.refuse(fmt::format("{} heads of size {} are too many", config.heads, config.head_size));
  }
  keys.require_size("attention.value_length", config.head_size, "the size of a key");
}

void read_vocabulary(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  const std::string name = kGgufEmbedding;
  const GgufTensor* embedding = file.find_tensor(name);
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > kLargestSize) {
    keys.refuse(fmt::format("tensor {} is missing or not an embedding matrix", name));
  }
  config.vocabulary = embedding->shape[0];
  keys.require_size("vocab_size", config.vocabulary, "the rows of the embedding");
  config.tied_head = file.find_tensor(kGgufHead) == nullptr;
}

// Returns the divisor of all positions, and so of all frequencies, under linear scaling.
double linear_rope_factor(ArchitectureKeys& keys) {
  const GgufValue* type = keys.find("rope.scaling.type");
  // Files older than this key use linear scaling by their factor.
  const auto name = type == nullptr ? "linear" : type->text().value_or("of another type");
  const char* old_key = "rope.scale_linear";
  const double factor = keys.positive_or("rope.scaling.factor", keys.positive_or(old_key, 1));
  if (name == "none") {
    return 1;
  }
  if (name != "linear") {
    keys.refuse(
        fmt::format("metadata {} is not supported; supported: none, linear, and factors "
                    "in the tensor {}",
                    keys.full("rope.scaling.type"), kGgufRopeDivisors));
  }
  return factor;
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
  rotary.factor = keys.positive_or("rope.scaling.attn_factor", 1);
  const std::int64_t original =
      keys.size_or("rope.scaling.original_context_length", config.context);
  config.context = std::min(config.context, original);
  keys.ignore("rope.scaling.type");
}

RotaryEmbedding read_rope(ArchitectureKeys& keys, const GgufFile& file, const Family& family,
                          ModelConfig& config) {
  RotaryEmbedding rotary;
  rotary.theta = keys.positive_or("rope.freq_base", family.theta);
  rotary.rotated = read_rotated(keys, family, config.head_size);
  const std::int64_t pairs = (rotary.rotated == 0 ? config.head_size : rotary.rotated) / 2;
  if (family.long_rope && file.find_tensor(kGgufShortRopeDivisors) != nullptr) {
    rotary.divisors = stored_rope_divisors(keys, file, kGgufShortRopeDivisors, pairs);
    read_long_rope(keys, rotary, config);
  } else {
    rotary.divisors = stored_rope_divisors(keys, file, kGgufRopeDivisors, pairs);
    const double factor = linear_rope_factor(keys);
    if (factor != 1) {
      rotary.divisors.resize(static_cast<std::size_t>(pairs), 1.0F);
      for (float& divisor : rotary.divisors) {
        divisor = static_cast<float>(divisor * factor);
      }
    }
    keys.require_number("rope.scaling.attn_factor", 1);
  }
  check_rope_divisors(keys, rotary.divisors);
  // Both describe the origin of the scaling; linear scaling does not use them.
  keys.ignore("rope.scaling.original_context_length");
  keys.ignore("rope.scaling.finetuned");
  return rotary;
}

// Returns the number whose root divides the scores, by llama.cpp's rule: D / H in the 27B models,
// which it recognises by their number of blocks, else the head size.
std::optional<double> query_scalar(const Family& family, const ModelConfig& config) {
  constexpr std::int64_t kBlocksOfGemma2At27B = 46;
  constexpr std::int64_t kBlocksOfGemma3At27B = 62;
  if (!family.query_scalar) {
    return std::nullopt;
  }
  const bool is_27b =
      config.blocks == (family.query_key_norms ? kBlocksOfGemma3At27B : kBlocksOfGemma2At27B);
  return static_cast<double>(is_27b ? config.hidden / config.heads : config.head_size);
}

void read_attention(ArchitectureKeys& keys, const Family& family, ModelConfig& config) {
  config.query_pre_attention_scalar = query_scalar(family, config);
  if (family.attention_soft_cap) {
    config.attention_soft_cap =
        keys.positive_or("attn_logit_softcapping", family.attention_soft_cap_value);
  }
  if (family.logit_soft_cap) {
    config.logit_soft_cap =
        keys.positive_or("final_logit_softcapping", family.logit_soft_cap_value);
  }
  if (family.local_theta != 0) {
    config.rotary.push_back({.theta = keys.positive_or("rope.freq_base_swa", family.local_theta)});
  }
  const char* const window_key = "attention.sliding_window";
  const std::int64_t window =
      family.windowed == WindowedBlocks::kAllButEveryNth ? keys.size(window_key)
      : family.windowed == WindowedBlocks::kAll          ? keys.size_or_zero(window_key)
                                                         : 0;
  const std::vector<bool> rotated = rotated_by_default(family, config.blocks, kUnrotatedInterval);
  set_attention_kinds(rotated,
                      windowed_by_default(family, rotated, config.blocks, family.full_every),
                      window, config);
}

void check_variations(ArchitectureKeys& keys) {
  keys.require_size("expert_count", 0, "a dense model");
  keys.require_size("expert_used_count", 0, "a dense model");
  keys.require_truth("attention.causal", true);
  keys.require_truth("use_parallel_residual", false);
  // The row order, which is the same in every file of the architecture.
  keys.ignore("tensor_data_layout");
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
  ModelConfig config;
  read_sizes(keys, file, config);
  read_head_size(keys, config);
  read_vocabulary(keys, file, config);
  config.norm_epsilon = keys.positive("attention.layer_norm_rms_epsilon");
  apply_family(family, config);
  config.norms_from_one = false;  // converters add the one
  config.rotary = {read_rope(keys, file, family, config)};
  read_attention(keys, family, config);
  check_variations(keys);
  keys.refuse_unknown();
  return config;
}

}  // namespace bipo
