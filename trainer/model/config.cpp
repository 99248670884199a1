#include "trainer/model/config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

const std::set<std::string> kArchitectures = {"LlamaForCausalLM"};

class ConfigReader {
 public:
  explicit ConfigReader(const std::filesystem::path& path) : path_(path) {
    std::ifstream file(path);
    if (!file) {
      throw UserError(
          fmt::format("{}: cannot be read; --model takes a Hugging Face model directory "
                      "(config.json, tokenizer.json, "
                      "*.safetensors)",
                      path.string()));
    }
    try {
      json_ = Json::parse(file);
    } catch (const Json::parse_error& error) {
      throw UserError(fmt::format("{}: not valid JSON: {}", path.string(), error.what()));
    }
    if (!json_.is_object()) {
      throw UserError(fmt::format("{}: not a JSON object", path.string()));
    }
  }

  const Json& json() const { return json_; }

  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("{}: {}", path_.string(), what));
  }

  bool has(const Json& object, const char* name) const {
    return object.contains(name) && !object.at(name).is_null();
  }

  std::int64_t size(const char* name) const {
    if (!has(json_, name)) {
      refuse(fmt::format("\"{}\" is missing", name));
    }
    return size_in(json_, name);
  }

  std::int64_t size_or(const char* name, std::int64_t otherwise) const {
    return has(json_, name) ? size_in(json_, name) : otherwise;
  }

  double number(const Json& object, const char* name) const {
    if (!has(object, name) || !object.at(name).is_number()) {
      refuse(fmt::format("\"{}\" must be a number", name));
    }
    return object.at(name).get<double>();
  }

  double positive(const Json& object, const char* name) const {
    const double value = number(object, name);
    if (!(value > 0)) {
      refuse(fmt::format("\"{}\" is {}, must be positive", name, value));
    }
    return value;
  }

  // A field that may stand there only with the one value that leaves the mathematics as
  // implemented.
  void require(const char* name, const Json& value) const {
    if (has(json_, name) && json_.at(name) != value) {
      refuse(fmt::format("\"{}\": {} is not supported (only {})", name, json_.at(name).dump(),
                         value.dump()));
    }
  }

 private:
  std::int64_t size_in(const Json& object, const char* name) const {
    const Json& value = object.at(name);
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1) {
      refuse(fmt::format("\"{}\" is {}, must be a positive integer", name, value.dump()));
    }
    return value.get<std::int64_t>();
  }

  std::filesystem::path path_;
  Json json_;
};

void check_architecture(const ConfigReader& reader, ModelConfig& config) {
  const Json& json = reader.json();
  const bool named = json.contains("architectures") && json["architectures"].is_array() &&
                     json["architectures"].size() == 1 && json["architectures"][0].is_string();
  config.architecture = named ? json["architectures"][0].get<std::string>() : "";
  if (kArchitectures.count(config.architecture) == 0) {
    reader.refuse(fmt::format("architectures {} is not supported; supported: {}",
                              json.value("architectures", Json()).dump(),
                              fmt::join(kArchitectures, ", ")));
  }
}

void check_unsupported(const ConfigReader& reader) {
  reader.require("hidden_act", "silu");
  reader.require("attention_bias", false);
  reader.require("mlp_bias", false);
  reader.require("partial_rotary_factor", 1.0);
  reader.require("is_encoder_decoder", false);
  // Other models' variations, which a derived checkpoint could carry under this architecture's
  // name.
  for (const char* name :
       {"quantization_config", "sliding_window", "attn_logit_softcapping",
        "final_logit_softcapping", "attention_multiplier", "residual_multiplier",
        "embedding_multiplier", "logits_scaling", "logit_scale", "query_pre_attn_scalar",
        "num_experts", "num_local_experts", "no_rope_layers", "layer_types", "use_qk_norm"}) {
    if (reader.has(reader.json(), name)) {
      reader.refuse(
          fmt::format("\"{}\": {} is not supported", name, reader.json().at(name).dump()));
    }
  }
}

void read_rope(const ConfigReader& reader, ModelConfig& config) {
  const Json& json = reader.json();
  if (reader.has(json, "rope_theta")) {
    config.rope_theta = reader.positive(json, "rope_theta");
  }
  // transformers 5 keeps theta and scaling together under "rope_parameters".
  const char* name = reader.has(json, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!reader.has(json, name)) {
    return;
  }
  const Json& rope = json.at(name);
  if (!rope.is_object()) {
    reader.refuse(fmt::format("\"{}\" must be an object", name));
  }
  if (reader.has(rope, "rope_theta")) {
    config.rope_theta = reader.positive(rope, "rope_theta");
  }
  if (reader.has(rope, "partial_rotary_factor") && rope.at("partial_rotary_factor") != 1.0) {
    reader.refuse(fmt::format("\"{}\": partial_rotary_factor is not supported", name));
  }
  const char* type_name = reader.has(rope, "rope_type") ? "rope_type" : "type";
  const std::string type = reader.has(rope, type_name) && rope.at(type_name).is_string()
                               ? rope.at(type_name).get<std::string>()
                               : "";
  if (type == "llama3") {
    config.rope_scaling =
        Llama3RopeScaling{reader.positive(rope, "factor"), reader.positive(rope, "low_freq_factor"),
                          reader.positive(rope, "high_freq_factor"),
                          reader.positive(rope, "original_max_position_embeddings")};
    if (config.rope_scaling->high_frequency_factor <= config.rope_scaling->low_frequency_factor) {
      reader.refuse(fmt::format("\"{}\": high_freq_factor must exceed low_freq_factor", name));
    }
  } else if (type != "default") {
    reader.refuse(fmt::format("\"{}\": type \"{}\" is not supported; supported: default, llama3",
                              name, type));
  }
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const ConfigReader reader(directory / "config.json");
  ModelConfig config;
  check_architecture(reader, config);
  check_unsupported(reader);
  config.hidden = reader.size("hidden_size");
  config.blocks = reader.size("num_hidden_layers");
  config.heads = reader.size("num_attention_heads");
  config.kv_heads = reader.size_or("num_key_value_heads", config.heads);
  config.intermediate = reader.size("intermediate_size");
  config.vocabulary = reader.size("vocab_size");
  config.context = reader.size_or("max_position_embeddings", 2048);
  if (config.heads % config.kv_heads != 0) {
    reader.refuse(fmt::format("num_attention_heads {} is no multiple of num_key_value_heads {}",
                              config.heads, config.kv_heads));
  }
  if (!reader.has(reader.json(), "head_dim") && config.hidden % config.heads != 0) {
    reader.refuse(fmt::format(
        "hidden_size {} is no multiple of num_attention_heads {}, and there is no head_dim",
        config.hidden, config.heads));
  }
  config.head_size = reader.size_or("head_dim", config.hidden / config.heads);
  if (config.head_size % 2 != 0) {
    reader.refuse(
        fmt::format("head size {} is odd; rotary embedding needs pairs", config.head_size));
  }
  if (reader.has(reader.json(), "rms_norm_eps")) {
    config.norm_epsilon = reader.positive(reader.json(), "rms_norm_eps");
  }
  if (reader.has(reader.json(), "tie_word_embeddings")) {
    if (!reader.json().at("tie_word_embeddings").is_boolean()) {
      reader.refuse("\"tie_word_embeddings\" must be true or false");
    }
    config.tied_head = reader.json().at("tie_word_embeddings").get<bool>();
  }
  read_rope(reader, config);
  return config;
}

void check_layer(std::int64_t layer, const ModelConfig& config) {
  if (layer >= config.blocks) {
    throw UserError(fmt::format("--layer {}: the model has {} blocks, so layers go from 0 to {}",
                                layer, config.blocks, config.blocks - 1));
  }
}

}  // namespace bipo
