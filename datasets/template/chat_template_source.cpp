// Finds the chat template and the special tokens in the files of a model directory.
#include "datasets/template/chat_template_source.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using nlohmann::json;

// Returns the texts of the special tokens, by the names of templates' variables.
std::map<std::string, std::string> special_tokens(const json& tokenizer_config) {
  std::map<std::string, std::string> tokens;
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const auto found = tokenizer_config.find(name);
    if (found == tokenizer_config.end()) {
      continue;
    }
    const bool is_object = found->is_object() && found->contains("content");
    const json& text = is_object ? (*found)["content"] : *found;
    if (text.is_string()) {
      tokens[name] = text.get<std::string>();
    }
  }
  return tokens;
}

// Returns the template's text; of several templates, the one named "default".
std::string default_template(const json& templates, const std::string& where) {
  if (templates.is_null()) {
    return "";
  }
  if (templates.is_string()) {
    return templates.get<std::string>();
  }
  if (templates.is_array()) {
    for (const json& entry : templates) {
      if (entry.is_object() && entry.value("name", json()) == "default" &&
          entry.contains("template") && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  throw UserError(
      fmt::format("{}: chat_template is neither a text nor a list with a template named 'default'; "
                  "correct it, or choose another format with --chat-template NAME|FILE",
                  where));
}

json read_tokenizer_config(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) {
    return json::object();
  }
  json config = read_json_file(file);
  if (!config.is_object()) {
    throw UserError(fmt::format("{}: must hold a JSON object", file.string()));
  }
  return config;
}

}  // namespace

ChatTemplateSource read_chat_template_source(const std::filesystem::path& model_directory) {
  const auto config_file = model_directory / "tokenizer_config.json";
  const json config = read_tokenizer_config(config_file);
  ChatTemplateSource source;
  source.special_tokens = special_tokens(config);
  const auto file = model_directory / "chat_template.jinja";
  if (std::filesystem::exists(file)) {
    source.where = file.string();
    source.text = read_template_file(file);
  } else {
    source.where = config_file.string();
    source.text = default_template(config.value("chat_template", json()), source.where);
  }
  return source;
}

std::string read_template_file(const std::filesystem::path& file) {
  return read_input_file(file, kMostSettingsBytes);
}

}  // namespace bipo
