// Reads files of prompts that are to be answered, as text.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

struct Prompt {
  std::vector<Message> messages;  // ends with the user turn that is to be answered
  std::string where;              // "prompts.csv:17", for messages
};

// A user turn.  Throws UserError, which begins with `where`, for text that is blank, not UTF-8 or
// holds NUL.
Prompt prompt_from_text(const std::string& text, const std::string& where);

// By the suffix: .txt, one question a line, blank lines left out; .csv, RFC 4180 with a column
// `question` or `prompt` (further columns ignored, so that files of pairs serve, too); .jsonl,
// .ndjson or .json, JSON Lines with `prompt` (a text, or messages of {role, content}; also
// `prompt_arr`) or `question`.  Throws UserError with file:line and the rule that was broken, also
// for an empty prompt and for a file without any.
std::vector<Prompt> read_prompts(const std::filesystem::path& path);

struct PromptFile {
  std::vector<Prompt> prompts;
  std::vector<std::string> skipped;  // one message per row left out
};

// The same, but with BadRows::kSkip a row that breaks a rule is left out; a header that lacks its
// column, quotes without an end and a file without a good row are refused all the same.
PromptFile read_prompts(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
