// Reads preference pairs from CSV and JSONL files, as text.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

// One row of a data file.  `prompt` ends with the user turn to answer.
struct PreferencePair {
  std::vector<Message> prompt;
  // Each begins with an assistant turn, the answer; turns that the file has after it follow.
  std::vector<Message> chosen;
  std::vector<Message> rejected;
  // An object: the row's variables for the chat template (`tools`, and the members of
  // `chat_template_kwargs`).
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
  std::string where;  // "train.csv:17": the line on which the row begins, for messages
};

struct PairFile {
  std::vector<PreferencePair> pairs;
  std::vector<std::string> skipped;  // one message per row left out (BadRows::kSkip)
};

// Reads RFC 4180 CSV with the columns question, matching, not_matching (in any order, further
// columns ignored), or JSON Lines with prompt/chosen/rejected (strings or arrays of {role,
// content}) or prompt_arr/chosen_arr/rejected_arr.  Without `prompt`, chosen and rejected must be
// whole conversations, whose common first turns are the prompt.  The suffix decides: .csv, or
// .jsonl/.ndjson/.json.  Throws UserError with file:line and the broken rule; with BadRows::kSkip,
// complaints about rows are collected instead.  A file without any pair is always an error.
PairFile read_preference_pairs(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
