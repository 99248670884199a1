// How a file of preference pairs is read: settings that a user may choose.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

// A member of a row, and the file's column that holds it; an empty column hides the member.
struct ColumnName {
  std::string name;
  std::string column;
};

// Which pairs a row with several right or wrong answers makes: one of the best answers, or one of
// every right with every wrong answer.
enum class AnswerPairs { kBest, kAll };

// What happens to equal answers, to rows that repeat and to rows that train and test share.
enum class OnDuplicate { kWarn, kError };

struct RowOptions {
  BadRows bad_rows = BadRows::kRefuse;
  std::vector<ColumnName> columns = {};
  AnswerPairs answer_pairs = AnswerPairs::kBest;
  std::int64_t max_pairs = 0;  // 0: all
  std::optional<std::uint64_t> seed =
      {};  // of a shuffle before the first are taken; none: no shuffle
  OnDuplicate on_duplicate = OnDuplicate::kWarn;
  // Dialogues written as texts ("\n\nHuman: ...") remain texts, whose common beginning is the
  // prompt.
  bool keeps_transcripts = false;
};

// Reads "prompt=question,chosen=best answer".  Throws UserError with the rule that the text breaks.
std::vector<ColumnName> parse_columns(const std::string& text);

}  // namespace bipo
