// Finds the chat template and the special tokens in the files of a model directory.
#include "datasets/template/chat_template_source.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

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

[[noreturn]] void refuse_templates(const std::string& where) {
  throw UserError(fmt::format(
      "{}: chat_template is neither a text nor a list of templates with names; correct it, or "
      "choose another format with --chat-template NAME|FILE",
      where));
}

// Returns templates by name; one without a name is "default".
std::map<std::string, std::string> templates_by_name(const json& templates,
                                                     const std::string& where) {
  std::map<std::string, std::string> named;
  if (templates.is_null()) {
    return named;
  }
  const auto add = [&](const json& name, const json& text) {
    if (!name.is_string() || !text.is_string()) {
      refuse_templates(where);
    }
    named[name.get<std::string>()] = text.get<std::string>();
  };
  if (templates.is_string()) {
    add("default", templates);
  } else if (templates.is_array()) {
    for (const json& entry : templates) {
      if (!entry.is_object()) {
        refuse_templates(where);
      }
      add(entry.value("name", json()), entry.value("template", json()));
    }
  } else if (templates.is_object()) {
    for (const auto& [name, text] : templates.items()) {
      add(name, text);
    }
  } else {
    refuse_templates(where);
  }
  return named;
}

std::map<std::string, std::string> templates_in_files(const std::filesystem::path& directory) {
  std::map<std::string, std::string> named;
  const auto file = directory / "chat_template.jinja";
  if (std::filesystem::exists(file)) {
    named["default"] = read_template_file(file);
  }
  const auto folder = directory / "additional_chat_templates";
  if (std::filesystem::is_directory(folder)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".jinja") {
        named[entry.path().stem().string()] = read_template_file(entry.path());
      }
    }
  }
  return named;
}

json read_settings(const std::filesystem::path& file) {
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
  const json config = read_settings(config_file);
  ChatTemplateSource source;
  source.special_tokens = special_tokens(config);
  source.named = templates_in_files(model_directory);
  source.where = (model_directory / "chat_template.jinja").string();
  if (source.named.empty()) {
    source.where = config_file.string();
    source.named = templates_by_name(config.value("chat_template", json()), source.where);
  }
  const auto processor_file = model_directory / "chat_template.json";
  if (source.named.empty() && std::filesystem::exists(processor_file)) {
    source.where = processor_file.string();
    source.named = templates_by_name(read_settings(processor_file).value("chat_template", json()),
                                     source.where);
  }
  if (const auto found = source.named.find("default"); found != source.named.end()) {
    source.text = std::move(found->second);
    source.named.erase(found);
  }
  return source;
}

std::string read_template_file(const std::filesystem::path& file) {
  return read_input_file(file, kMostSettingsBytes);
}

}  // namespace bipo
