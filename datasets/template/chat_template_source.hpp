// What a model brings for rendering conversations: its chat template and its special tokens.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace bipo {

struct ChatTemplateSource {
  std::string text;   // Jinja; empty where the model has none
  std::string where;  // the file that holds it, or that ought to, for messages
  std::map<std::string, std::string> special_tokens;  // by template variable, as "bos_token"
};

// From chat_template.jinja, else the `chat_template` of tokenizer_config.json (of several, the one
// named "default"); the special tokens from tokenizer_config.json.  Throws UserError for files that
// cannot be read or hold something else.
ChatTemplateSource read_chat_template_source(const std::filesystem::path& model_directory);

// The text of one file with a template.  Throws UserError.
std::string read_template_file(const std::filesystem::path& file);

}  // namespace bipo
