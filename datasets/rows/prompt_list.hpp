// Reads files of prompts to answer, as text.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

struct Prompt {
  std::vector<Message> messages;  // ends with the user turn to answer
  // An object: the row's variables for the chat template, as PreferencePair has them.
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
  std::string where;  // "prompts.csv:17", for messages
};

// Makes a prompt of one user turn.  Throws UserError, which begins with `where`, for text that is
// blank, not UTF-8 or holds NUL.
Prompt prompt_from_text(const std::string& text, const std::string& where);

// Reads .txt (also .txt.gz) with one question a line, without blank lines, or rows of any container
// of for_each_data_row(): their `prompt` (a text, or messages; also `prompt_arr`), `question`,
// `Question`, `messages` or `instruction`, after their `system` if they have it; rows of pairs
// without such a key give the prompt that their pairs have.  Throws UserError with file:line and
// the broken rule, also for an empty prompt and for a file without any.
std::vector<Prompt> read_prompts(const std::filesystem::path& path);

struct PromptFile {
  std::vector<Prompt> prompts;
  std::vector<std::string> skipped;  // one message per row left out
};

// The same, but BadRows::kSkip leaves out rows that break a rule.  A header without its column, a
// quote that is never closed and a file without a good row are errors nevertheless.
PromptFile read_prompts(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
