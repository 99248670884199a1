#include "trainer/model/lora/lora_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"

namespace bipo {
namespace {

// Keeps the order of patterns, because the first that matches counts.
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLargestFile = 1 << 20;
constexpr std::uint64_t kLargestRank = 1 << 16;

// Fields that say where the adapter comes from or how it was trained, not what it computes.
const std::set<std::string> kWithoutEffect = {
    "auto_mapping",   "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config",     "inference_mode",          "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core",           "peft_version", "qalora_group_size",
    "revision",       "runtime_config",          "task_type"};

// Fields that are read below.
const std::set<std::string> kRead = {"alpha_pattern",
                                     "bias",
                                     "exclude_modules",
                                     "fan_in_fan_out",
                                     "init_lora_weights",
                                     "layers_pattern",
                                     "layers_to_transform",
                                     "lora_alpha",
                                     "lora_bias",
                                     "peft_type",
                                     "r",
                                     "rank_pattern",
                                     "target_modules",
                                     "target_parameters",
                                     "use_dora",
                                     "use_rslora"};

// Why PEFT cannot merge an adapter either.
const std::map<std::string, std::string> kNeverMerged = {
    {"alora_invocation_tokens",
     "it acts only after these tokens, so that PEFT cannot merge it into weights; such an adapter "
     "is not supported"},
    {"arrow_config",
     "it chooses among adapters for each token, so that PEFT cannot merge it into weights; such an "
     "adapter is not supported"},
    {"layer_replication",
     "PEFT gives blocks that share weights an update each and merges all of them into the shared "
     "weights, which is another model; such an adapter is not supported"},
    {"use_qalora", "PEFT cannot merge it into weights; such an adapter is not supported"},
};

// Initialisations that take B A from the base model's weights: W - B A is what was trained.
const std::set<std::string> kLoadedAgain = {"olora", "loftq"};
const std::set<std::string> kNotLoadedAgain = {"corda", "lora_ga"};

constexpr const char* kConversion =
    "save it with model.save_pretrained(folder, path_initial_model_for_weight_conversion=...) in "
    "the program that trained it, which makes plain LoRA of it";

// Whether a dotted name is `end` or ends with it after a dot.
bool ends_with_name(const std::string& module, const std::string& end) {
  return module.ends_with(end) &&
         (module.size() == end.size() || module[module.size() - end.size() - 1] == '.');
}

bool ends_with_any(const std::string& module, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](const std::string& end) { return ends_with_name(module, end); });
}

bool is_block_matrix(const std::string& module) {
  return module.find(".layers.") != std::string::npos;
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

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
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
  bool has_text(const char* name) const { return has(name) && json_.at(name).is_string(); }

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

  // Returns names: the field is one name or a list of names.
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

  // Makes a pattern; names the field if its expression is refused.
  template <typename Make>
  NamePattern expression(const char* name, const Make& make, const std::string& text) const {
    try {
      return make(text);
    } catch (const UserError& error) {
      refuse(name, error.what());
    }
  }

  // Calls add(expression, value) for each entry.
  template <typename Add>
  void for_each_entry(const char* name, const Add& add) const {
    if (!has(name)) {
      return;
    }
    if (!json_.at(name).is_object()) {
      refuse(name, "must be an object");
    }
    for (const auto& [key, value] : json_.at(name).items()) {
      add(key, value);
    }
  }

 private:
  std::string file_;
  Json json_;
};

bool is_empty_or_off(const Json& value) {
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

std::string command_to_merge(const FieldReader& reader, const std::filesystem::path& adapter,
                             const std::filesystem::path& model) {
  std::error_code unreachable;
  const bool is_directory = std::filesystem::is_directory(model, unreachable);
  const std::string base = !is_directory && reader.has_text("base_model_name_or_path")
                               ? reader.json().at("base_model_name_or_path").get<std::string>()
                               : model.string();
  return fmt::format(
      "python -c \"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; from "
      "peft import PeftModel as P; P.from_pretrained(M.from_pretrained('{0}', dtype='auto'), "
      "'{1}').merge_and_unload().save_pretrained('merged'); "
      "T.from_pretrained('{0}').save_pretrained('merged')\"",
      base, adapter.string());
}

std::string to_merge(const std::string& command) {
  return fmt::format("merge the adapter into its model and give the result as --model: {}",
                     command);
}

void refuse_what_is_not_supported(const FieldReader& reader, const std::string& command) {
  if (reader.json().value("peft_type", Json()) != "LORA") {
    reader.refuse(
        "peft_type",
        fmt::format("is not supported; supported: \"LORA\".  Where PEFT can merge it (prompts, "
                    "prefixes and mixtures of adapters it cannot), {}",
                    to_merge(command)));
  }
  if (reader.has("bias") && reader.json().at("bias") != "none") {
    reader.refuse("bias", fmt::format("trained biases of the base model are not supported; {}",
                                      to_merge(command)));
  }
  for (const auto& [name, value] : reader.json().items()) {
    if (kRead.contains(name) || kWithoutEffect.contains(name) || is_empty_or_off(value)) {
      continue;
    }
    const auto never = kNeverMerged.find(name);
    if (never != kNeverMerged.end()) {
      reader.refuse(name, never->second);
    }
    reader.refuse(name, fmt::format("is not supported; {}", to_merge(command)));
  }
}

void check_initialization(const FieldReader& reader, const std::string& command) {
  if (!reader.has("init_lora_weights")) {
    return;
  }
  const Json& value = reader.json().at("init_lora_weights");
  if (value.is_boolean()) {
    return;
  }
  const std::string name = value.is_string() ? lower_case(value.get<std::string>()) : "";
  if (name == "gaussian" || name == "eva" || name == "orthogonal" || name == "mica") {
    return;
  }
  const std::string why =
      "such an adapter belongs to base weights that its initialisation changed, which the model's "
      "files do not hold; ";
  if (name.starts_with("pissa") || kLoadedAgain.contains(name)) {
    reader.refuse("init_lora_weights",
                  fmt::format("{}{}; or, as PEFT changes them in the same way when it loads the "
                              "adapter, {}",
                              why, kConversion, to_merge(command)));
  }
  if (name.starts_with("corda") || kNotLoadedAgain.contains(name)) {
    reader.refuse("init_lora_weights", fmt::format("{}{}", why, kConversion));
  }
  reader.refuse(
      "init_lora_weights",
      "is not known; known: true, false, \"gaussian\", \"eva\", \"orthogonal\", \"mica\"");
}

std::optional<std::vector<std::int64_t>> read_layers(const FieldReader& reader) {
  const bool by_expression = reader.has_text("target_modules");
  if (!reader.has("layers_to_transform")) {
    if (!reader.names("layers_pattern").empty()) {
      reader.refuse("layers_pattern", "needs layers_to_transform, which is not there");
    }
    return std::nullopt;
  }
  if (by_expression) {
    reader.refuse("layers_to_transform", "cannot stand beside target_modules that is a text");
  }
  const Json& value = reader.json().at("layers_to_transform");
  std::vector<std::int64_t> layers;
  for (const Json& layer : value.is_array() ? value : Json::array({value})) {
    if (!layer.is_number_integer()) {
      reader.refuse("layers_to_transform", "must be the numbers of blocks");
    }
    layers.push_back(layer.get<std::int64_t>());
  }
  return layers.empty() ? std::nullopt : std::optional(std::move(layers));
}

std::vector<NamePattern> read_before_block(const FieldReader& reader) {
  std::vector<NamePattern> patterns;
  if (reader.has_text("layers_pattern") && reader.json().at("layers_pattern") == "") {
    return patterns;
  }
  for (const std::string& text : reader.names("layers_pattern")) {
    patterns.push_back(reader.expression("layers_pattern", NamePattern::before_block, text));
  }
  return patterns;
}

}  // namespace

bool LoraConfig::Names::match(const std::string& module) const {
  return all_linear   ? is_block_matrix(module)
         : expression ? expression->matches(module)
                      : ends_with_any(module, ends);
}

LoraConfig::LoraConfig(const std::filesystem::path& path, const std::filesystem::path& model)
    : path_(path) {
  const FieldReader reader(path);
  merging_command_ = command_to_merge(reader, path.parent_path(), model);
  refuse_what_is_not_supported(reader, merging_command_);
  check_initialization(reader, merging_command_);
  rank_ = reader.read_rank("r", reader.json().value("r", Json()));
  alpha_ = reader.read_alpha("lora_alpha", reader.json().value("lora_alpha", Json()));
  rank_stabilized_ = reader.flag("use_rslora");
  magnitudes_ = reader.flag("use_dora");
  biases_ = reader.flag("lora_bias");
  fan_in_fan_out_ = reader.flag("fan_in_fan_out");
  const auto pattern = [&](const char* name, const std::string& text) {
    return reader.expression(name, NamePattern::ending, text);
  };
  reader.for_each_entry("rank_pattern", [&](const std::string& key, const Json& value) {
    rank_patterns_.push_back(
        {key, pattern("rank_pattern", key), reader.read_rank("rank_pattern", value)});
  });
  reader.for_each_entry("alpha_pattern", [&](const std::string& key, const Json& value) {
    alpha_patterns_.push_back(
        {key, pattern("alpha_pattern", key), reader.read_alpha("alpha_pattern", value)});
  });
  const auto read_names = [&](const char* name) {
    Names names;
    if (!reader.has_text(name)) {
      names.ends = reader.names(name);
      return names;
    }
    const auto text = reader.json().at(name).get<std::string>();
    names.all_linear =
        name == std::string_view("target_modules") && lower_case(text) == "all-linear";
    if (!names.all_linear && !text.empty()) {
      names.expression = reader.expression(name, NamePattern::whole, text);
    }
    return names;
  };
  layers_ = read_layers(reader);
  before_block_ = read_before_block(reader);
  targets_ = read_names("target_modules");
  excluded_ = read_names("exclude_modules");
  if (reader.has_text("target_parameters")) {
    reader.refuse("target_parameters", "must be a list of names");
  }
  parameters_ = reader.names("target_parameters");
  if (!reader.has("target_modules") && parameters_.empty()) {
    targets_.ends = {"q_proj", "v_proj"};  // PEFT's for every family for which it has any
  }
  if (biases_ && magnitudes_) {
    reader.refuse("lora_bias", "PEFT knows no DoRA (use_dora) with biases");
  }
  if (!parameters_.empty() && (biases_ || magnitudes_)) {
    reader.refuse("target_parameters", "PEFT knows no use_dora and no lora_bias beside it");
  }
}

template <typename Value>
const Value& LoraConfig::first_match(const Patterns<Value>& patterns, const std::string& name,
                                     const Value& otherwise) {
  const auto found = std::find_if(patterns.begin(), patterns.end(), [&](const Entry<Value>& entry) {
    return entry.pattern.matches(name);
  });
  return found == patterns.end() ? otherwise : found->value;
}

std::int64_t LoraConfig::rank(const std::string& name) const {
  return first_match(rank_patterns_, name, rank_);
}

double LoraConfig::scale(const std::string& name) const {
  const auto of_rank = static_cast<double>(rank(name));
  return first_match(alpha_patterns_, name, alpha_) /
         (rank_stabilized_ ? std::sqrt(of_rank) : of_rank);
}

bool LoraConfig::in_layers(const std::string& module) const {
  if (!layers_) {
    return true;
  }
  const bool has_pattern =
      before_block_.empty() || std::any_of(before_block_.begin(), before_block_.end(),
                                           [&](const NamePattern& p) { return p.matches(module); });
  const std::optional<std::int64_t> layer = layer_of(module);
  return has_pattern && layer &&
         std::find(layers_->begin(), layers_->end(), *layer) != layers_->end();
}

bool LoraConfig::targets_module(const std::string& module) const {
  const bool by_whole_name =
      std::find(targets_.ends.begin(), targets_.ends.end(), module) != targets_.ends.end();
  return !excluded_.match(module) &&
         (by_whole_name || (targets_.match(module) && in_layers(module)));
}

bool LoraConfig::targets_parameter(const std::string& parameter) const {
  return ends_with_any(parameter, parameters_);
}

std::vector<std::string> LoraConfig::warnings(const std::vector<std::string>& adapted) const {
  std::vector<std::string> all;
  const auto add_unused = [&](const char* field, const auto& patterns) {
    for (const auto& entry : patterns) {
      if (std::none_of(adapted.begin(), adapted.end(),
                       [&](const std::string& name) { return entry.pattern.matches(name); })) {
        all.push_back(
            fmt::format("{}: \"{}\": \"{}\" matches none of the adapted modules and changes "
                        "nothing; as in PEFT, it would have to match a whole name, or all of its "
                        "end after a dot",
                        path_.string(), field, entry.expression));
      }
    }
  };
  add_unused("rank_pattern", rank_patterns_);
  add_unused("alpha_pattern", alpha_patterns_);
  if (fan_in_fan_out_) {
    all.push_back(fmt::format(
        "{}: \"fan_in_fan_out\": true is not followed, because this model's matrices are [out, "
        "in]; PEFT does not follow it either",
        path_.string()));
  }
  return all;
}

}  // namespace bipo
