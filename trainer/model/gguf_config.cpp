#include "trainer/model/gguf_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

// Far above any model's; products of two sizes stay clear of overflow.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 24;

// Reads the keys of one architecture and remembers which ones have been understood.
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

  // Keys that may stand there only with the one value that leaves the mathematics as implemented.
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
    keys.refuse(fmt::format("metadata {} {} is no multiple of {} {}",
                            keys.full("attention.head_count"), config.heads,
                            keys.full("attention.head_count_kv"), config.kv_heads));
  }
}

void read_head_size(ArchitectureKeys& keys, ModelConfig& config) {
  if (!keys.has("attention.key_length") && config.hidden % config.heads != 0) {
    keys.refuse(fmt::format("metadata {} {} is no multiple of {} {}, and there is no {}",
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
  keys.require_size("rope.dimension_count", config.head_size, "the whole head");
}

void read_vocabulary(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  const std::string name = gguf_tensor_name(Role::kEmbedding);
  const GgufTensor* embedding = file.find_tensor(name);
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > kLargestSize) {
    keys.refuse(fmt::format("tensor {} is missing or no embedding matrix", name));
  }
  config.vocabulary = embedding->shape[0];
  keys.require_size("vocab_size", config.vocabulary, "the rows of the embedding");
  config.tied_head = file.find_tensor(gguf_tensor_name(Role::kHead)) == nullptr;
}

// What linear scaling divides all positions, and so all frequencies, by.
double linear_rope_factor(ArchitectureKeys& keys) {
  const GgufValue* type = keys.find("rope.scaling.type");
  // Files from before this key existed mean linear scaling by their factor.
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
                                        std::int64_t count) {
  const GgufTensor* tensor = file.find_tensor(kGgufRopeDivisors);
  if (tensor == nullptr) {
    return {};
  }
  if (tensor->shape != std::vector{count} || tensor->format.type != GgmlType::kF32) {
    keys.refuse(fmt::format("tensor {} must be {} float32 numbers, one for each rotary frequency",
                            kGgufRopeDivisors, count));
  }
  std::vector<float> divisors(static_cast<std::size_t>(count));
  dequantize(tensor->format, tensor->data.data(), {0, count}, divisors.data());
  return divisors;
}

std::vector<float> rope_divisors(ArchitectureKeys& keys, const GgufFile& file, std::int64_t count) {
  std::vector<float> divisors = stored_rope_divisors(keys, file, count);
  const double factor = linear_rope_factor(keys);
  if (factor != 1) {
    divisors.resize(static_cast<std::size_t>(count), 1.0F);
    for (float& divisor : divisors) {
      divisor = static_cast<float>(divisor * factor);
    }
  }
  if (!std::all_of(divisors.begin(), divisors.end(),
                   [](float divisor) { return divisor > 0 && std::isfinite(divisor); })) {
    keys.refuse(fmt::format("what divides the rotary frequencies ({} and {}) is not positive",
                            kGgufRopeDivisors, keys.full("rope.scaling.factor")));
  }
  return divisors;
}

void read_rope(ArchitectureKeys& keys, const GgufFile& file, ModelConfig& config) {
  RotaryEmbedding rotary;
  rotary.theta = keys.positive_or("rope.freq_base", 10000);
  keys.require_number("rope.scaling.attn_factor", 1);
  // Both describe how the model came to its scaling; neither enters linear scaling.
  keys.ignore("rope.scaling.original_context_length");
  keys.ignore("rope.scaling.finetuned");
  rotary.divisors = rope_divisors(keys, file, config.head_size / 2);
  config.rotary = {rotary};
}

void check_variations(ArchitectureKeys& keys) {
  keys.require_size("expert_count", 0, "a dense model");
  keys.require_size("expert_used_count", 0, "a dense model");
  keys.require_truth("attention.causal", true);
  keys.require_truth("use_parallel_residual", false);
  // Names the row order that every file of the architecture has.
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

const GgufArchitecture& architecture_of(const GgufFile& file) {
  const auto text = [&](const char* key) -> std::string {
    const GgufValue* value = file.find_value(key);
    return value == nullptr ? "" : std::string(value->text().value_or(""));
  };
  const std::string type = text("general.type");
  if (!type.empty() && type != "model") {
    throw UserError(fmt::format("{}: holds no model but what general.type calls {:?}",
                                file.path().string(), type));
  }
  const std::string name = text("general.architecture");
  const GgufArchitecture* known = find_gguf_architecture(name);
  if (known == nullptr) {
    throw UserError(fmt::format("{}: general.architecture {:?} is not supported; supported: {}",
                                file.path().string(), name, supported_gguf_architectures()));
  }
  return *known;
}

ModelConfig read_gguf_config(const GgufFile& file) {
  const GgufArchitecture& architecture = architecture_of(file);
  check_quantization_version(file);
  ArchitectureKeys keys(file, architecture.name);
  ModelConfig config;
  config.architecture = architecture.model_class;
  read_sizes(keys, file, config);
  read_head_size(keys, config);
  read_vocabulary(keys, file, config);
  config.norm_epsilon = keys.positive("attention.layer_norm_rms_epsilon");
  read_rope(keys, file, config);
  check_variations(keys);
  keys.refuse_unknown();
  return config;
}

}  // namespace bipo
