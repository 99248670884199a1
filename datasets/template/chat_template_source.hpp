// The sources of chat templates: a model's files, a file of its own, formats known by name.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace bipo {

// A model's own chat template and special tokens.
struct ChatTemplateSource {
  std::string text;   // Jinja; empty if the model has none
  std::string where;  // the file that holds it or should hold it, for messages
  std::map<std::string, std::string> special_tokens;  // by template variable, as "bos_token"
  std::map<std::string, std::string> named;           // further templates, as "tool_use"
};

// Reads chat_template.jinja and additional_chat_templates/NAME.jinja, or else, where there is none
// of these, `chat_template` of tokenizer_config.json (of several, the one named "default" is the
// model's), as transformers does, or else that of chat_template.json, where processors of texts and
// images had it; the special tokens from tokenizer_config.json.  Throws UserError
// for files that cannot be read or hold something else.
ChatTemplateSource read_chat_template_source(const std::filesystem::path& model_directory);

// Reads a file that holds one template.  Throws UserError.
std::string read_template_file(const std::filesystem::path& file);

struct ChatForm {
  std::string_view name;  // as in llama.cpp, where that has one
  std::string_view jinja;
};

// The formats known by name.  Of two that can both match a template, the stricter one comes first.
std::span<const ChatForm> chat_forms();

// A prompt, a line break, the answer: the form for models without chat tuning.
inline constexpr std::string_view kPlainForm = "plain";

// Texts as they are, nothing before, between or after: TRL's form of rows of plain strings.
inline constexpr std::string_view kRawForm = "raw";

}  // namespace bipo
