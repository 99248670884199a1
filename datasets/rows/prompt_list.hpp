// Reads files of prompts to answer, as text.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

struct Prompt {
  std::vector<Message> messages;  // ends with the user turn to answer
  std::string where;              // "prompts.csv:17", for messages
};

// Makes a prompt of one user turn.  Throws UserError, which begins with `where`, for text that is
// blank, not UTF-8 or holds NUL.
Prompt prompt_from_text(const std::string& text, const std::string& where);

// Reads by the suffix: .txt with one question a line, without blank lines; .csv, RFC 4180 with a
// column `question` or `prompt` (further columns ignored, so that files of pairs can be used);
// .jsonl, .ndjson or .json, JSON Lines with `prompt` (a text, or messages of {role, content}; also
// `prompt_arr`) or `question`.  Throws UserError with file:line and the broken rule, also for an
// empty prompt and for a file without any.
std::vector<Prompt> read_prompts(const std::filesystem::path& path);

struct PromptFile {
  std::vector<Prompt> prompts;
  std::vector<std::string> skipped;  // one message per row left out
};

// The same, but BadRows::kSkip leaves out rows that break a rule.  A header without its column, a
// quote that is never closed and a file without a good row are errors nevertheless.
PromptFile read_prompts(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
