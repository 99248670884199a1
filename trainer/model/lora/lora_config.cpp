#include "trainer/model/lora/lora_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"

namespace bipo {
namespace {

// Keeps the order of patterns, because the first that matches counts.
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLargestFile = 1 << 20;
constexpr std::uint64_t kLargestRank = 1 << 16;

// Patterns are regular expressions; PEFT's own conversions write only names and this character.
constexpr char kWholeName = '^';

// Fields that say where the adapter comes from or how it was trained, not what it computes.
const std::set<std::string> kWithoutEffect = {"auto_mapping",   "base_model_name_or_path",
                                              "corda_config",   "eva_config",
                                              "inference_mode", "loftq_config",
                                              "lora_dropout",   "megatron_core",
                                              "peft_version",   "qalora_group_size",
                                              "revision",       "runtime_config",
                                              "task_type"};

// Fields that are read below.
const std::set<std::string> kRead = {"alpha_pattern",     "bias",           "exclude_modules",
                                     "init_lora_weights", "layers_pattern", "layers_to_transform",
                                     "lora_alpha",        "peft_type",      "r",
                                     "rank_pattern",      "target_modules", "use_rslora"};

// Whether the last parts of a dotted name are `end`: "a.name" ends with "name".
bool ends_with_name(const std::string& module, const std::string& end) {
  return module.ends_with(end) &&
         (module.size() == end.size() || module[module.size() - end.size() - 1] == '.');
}

bool ends_with_any(const std::string& module, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](const std::string& end) { return ends_with_name(module, end); });
}

template <typename Value>
Value first_match(const std::vector<std::pair<std::string, Value>>& pattern,
                  const std::string& module, Value otherwise) {
  for (const auto& [name, value] : pattern) {
    const bool is_whole_name = name.starts_with(kWholeName);
    if (is_whole_name ? module == name.substr(1) : ends_with_name(module, name)) {
      return value;
    }
  }
  return otherwise;
}

// Returns 3 for "model.layers.3.mlp.up_proj".
std::optional<std::int64_t> layer_of(const std::string& module) {
  constexpr std::string_view kBefore = "layers.";
  const std::size_t place = module.find(kBefore);
  if (place == std::string::npos) {
    return std::nullopt;
  }
  return std::atoll(module.c_str() + place + kBefore.size());
}

class FieldReader {
 public:
  explicit FieldReader(const std::filesystem::path& path)
      : file_(path.string()), json_(read_strict_json<Json>(path, kLargestFile)) {
    if (!json_.is_object()) {
      throw UserError(fmt::format("{}: is not a JSON object", file_));
    }
  }

  const Json& json() const { return json_; }

  bool has(const char* name) const { return json_.contains(name) && !json_.at(name).is_null(); }

  [[noreturn]] void refuse(const std::string& name, const std::string& rule) const {
    throw UserError(
        fmt::format("{}: \"{}\": {}: {}", file_, name, json_.value(name, Json()).dump(), rule));
  }

  bool flag(const char* name) const {
    if (has(name) && !json_.at(name).is_boolean()) {
      refuse(name, "must be true or false");
    }
    return has(name) && json_.at(name).get<bool>();
  }

  std::int64_t read_rank(const char* name, const Json& value) const {
    const std::uint64_t rank = value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
    if (rank < 1 || rank > kLargestRank) {
      refuse(name, fmt::format("a rank must be an integer from 1 to {}", kLargestRank));
    }
    return static_cast<std::int64_t>(rank);
  }

  double read_alpha(const char* name, const Json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      refuse(name, "alpha must be a number");
    }
    return value.get<double>();
  }

  // Returns ends of names: the field is one name or a list of names.
  std::vector<std::string> names(const char* name) const {
    std::vector<std::string> all;
    if (has(name)) {
      const Json& value = json_.at(name);
      for (const Json& entry : value.is_array() ? value : Json::array({value})) {
        if (!entry.is_string()) {
          refuse(name, "must be a list of names");
        }
        all.push_back(entry.get<std::string>());
      }
    }
    return all;
  }

  template <typename Read>
  auto pattern(const char* name, const Read& read) const {
    std::vector<std::pair<std::string, decltype(read(name, json_))>> entries;
    if (!has(name)) {
      return entries;
    }
    if (!json_.at(name).is_object()) {
      refuse(name, "must be an object");
    }
    for (const auto& [key, value] : json_.at(name).items()) {
      const std::string name_alone = key.substr(key.starts_with(kWholeName) ? 1 : 0);
      const bool is_name = std::all_of(name_alone.begin(), name_alone.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
      });
      if (!is_name) {
        refuse(name, fmt::format("\"{}\" is a regular expression, which is not supported; write "
                                 "one entry for each module's name",
                                 key));
      }
      entries.emplace_back(key, read(name, value));
    }
    return entries;
  }

 private:
  std::string file_;
  Json json_;
};

bool is_empty_or_off(const Json& value) {
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

void refuse_what_is_not_supported(const FieldReader& reader) {
  if (reader.json().value("peft_type", Json()) != "LORA") {
    reader.refuse("peft_type", "is not supported; supported: \"LORA\"");
  }
  if (reader.has("bias") && reader.json().at("bias") != "none") {
    reader.refuse("bias", "an adapter with biases is not supported");
  }
  for (const auto& [name, value] : reader.json().items()) {
    if (!kRead.contains(name) && !kWithoutEffect.contains(name) && !is_empty_or_off(value)) {
      reader.refuse(name,
                    "is not supported; merge this adapter into its model with PEFT's "
                    "merge_and_unload and give the result as --model");
    }
  }
}

// The other initialisations (PiSSA, OLoRA, CorDA, LoftQ) take B A from the base model's weights.
void check_initialization(const FieldReader& reader) {
  if (!reader.has("init_lora_weights")) {
    return;
  }
  const Json& value = reader.json().at("init_lora_weights");
  if (!value.is_boolean() && value != "gaussian" && value != "eva" && value != "orthogonal") {
    reader.refuse("init_lora_weights",
                  "such an adapter needs changed base weights, which is not supported; save it "
                  "with PEFT's path_initial_model_for_weight_conversion");
  }
}

std::set<std::int64_t> read_layers(const FieldReader& reader) {
  std::set<std::int64_t> layers;
  if (!reader.has("layers_to_transform")) {
    return layers;
  }
  const Json& value = reader.json().at("layers_to_transform");
  for (const Json& layer : value.is_array() ? value : Json::array({value})) {
    if (!layer.is_number_unsigned()) {
      reader.refuse("layers_to_transform", "must be the numbers of blocks");
    }
    layers.insert(layer.get<std::int64_t>());
  }
  const std::vector<std::string> patterns = reader.names("layers_pattern");
  const bool names_blocks = std::any_of(patterns.begin(), patterns.end(), [](const auto& pattern) {
    return pattern == "layers" || pattern.empty();
  });
  if (!patterns.empty() && !names_blocks) {
    reader.refuse("layers_pattern", "is not supported; supported: \"layers\"");
  }
  return layers;
}

}  // namespace

LoraConfig::LoraConfig(const std::filesystem::path& path) : path_(path) {
  const FieldReader reader(path);
  refuse_what_is_not_supported(reader);
  check_initialization(reader);
  const auto read_rank = [&](const char* name, const Json& value) {
    return reader.read_rank(name, value);
  };
  const auto read_alpha = [&](const char* name, const Json& value) {
    return reader.read_alpha(name, value);
  };
  rank_ = read_rank("r", reader.json().value("r", Json()));
  alpha_ = read_alpha("lora_alpha", reader.json().value("lora_alpha", Json()));
  rank_stabilized_ = reader.flag("use_rslora");
  rank_pattern_ = reader.pattern("rank_pattern", read_rank);
  alpha_pattern_ = reader.pattern("alpha_pattern", read_alpha);
  layers_ = read_layers(reader);
  // A text instead of a list is a regular expression; then the tensors show the targets.
  const auto is_list = [&](const char* name) {
    return reader.has(name) && reader.json().at(name).is_array();
  };
  const bool can_tell = !reader.has("exclude_modules") || is_list("exclude_modules");
  if (is_list("target_modules") && can_tell) {
    targets_ = reader.names("target_modules");
    excluded_ = reader.names("exclude_modules");
  }
}

std::int64_t LoraConfig::rank(const std::string& module) const {
  return first_match(rank_pattern_, module, rank_);
}

double LoraConfig::scale(const std::string& module) const {
  const auto of_rank = static_cast<double>(rank(module));
  return first_match(alpha_pattern_, module, alpha_) /
         (rank_stabilized_ ? std::sqrt(of_rank) : of_rank);
}

bool LoraConfig::targets(const std::string& module) const {
  const std::optional<std::int64_t> layer = layer_of(module);
  const bool in_layers = layers_.empty() || (layer && layers_.contains(*layer));
  const bool by_whole_name = std::find(targets_.begin(), targets_.end(), module) != targets_.end();
  return !ends_with_any(module, excluded_) &&
         (by_whole_name || (in_layers && ends_with_any(module, targets_)));
}

}  // namespace bipo
