// Reads preference pairs from data files in any form that is known, as text.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/rows/row_options.hpp"
#include "datasets/text/conversation.hpp"

namespace bipo {

// One pair of a data file.  `prompt` ends with the turn to answer, a user's or a tool's, or with
// the last turn before conversations part.
struct PreferencePair {
  std::vector<Message> prompt;
  // Each begins with an assistant turn, the answer, and turns that the file has after it follow;
  // where conversations part at another turn, with that one.  Each holds an assistant turn.
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
  // One line for people: the file, how many rows of which form, the first pair, what was not used.
  std::string understood;
};

// Reads all rows of a file (see for_each_data_row()) in the form that their keys show (see
// form_of_row()), after renaming `options.columns`; takes options.max_pairs of their pairs, the
// first, or with a seed the first of a shuffle by Philox.  Throws UserError with file:line and the
// broken rule; with BadRows::kSkip, complaints about rows are collected instead.  A file without
// any pair is always an error.
PairFile read_preference_pairs(const std::filesystem::path& path, const RowOptions& options);
PairFile read_preference_pairs(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
