// Reads multiple-choice items: A/B pairs of a behaviour, TruthfulQA's MC1/MC2, MMLU.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

enum class ChoiceKind { kAb, kMc, kMmlu };
std::string_view choice_kind_name(ChoiceKind kind);  // "ab", "mc", "mmlu"

struct Choice {
  std::string text;
  bool right = false;  // A/B: the matching one
  bool in_mc1 = true;  // whether it counts for the accuracy
  bool in_mc2 = true;  // whether it counts for the probability
};

// Has at least one right and one wrong choice, both among those in MC1 and among those in MC2.
struct ChoiceItem {
  std::string question;
  std::vector<Choice> choices;
  std::string subject;  // MMLU's; "" elsewhere
  std::string where;    // file:line on which the item begins
};

struct ChoiceSet {
  std::string name;  // the file's or directory's, without a suffix
  ChoiceKind kind = ChoiceKind::kAb;
  std::vector<ChoiceItem> items;
  std::map<std::string, std::vector<ChoiceItem>> shots;  // MMLU: five worked examples per subject
  std::vector<std::string> skipped;  // one message per row left out (BadRows::kSkip)
};

// The readers throw UserError with file:line and the broken rule; with BadRows::kSkip, complaints
// about rows go to `skipped` instead.  A file without any item is always an error.

// CSV with the columns question, A, B and matching, which is A, B, (A) or (B); in any order,
// further columns ignored.  Rows of JSON, TSV, Parquet and Arrow have the same keys.
ChoiceSet read_ab_items(const std::filesystem::path& path, BadRows bad_rows);

// JSON Lines of {"question", "choices": [texts], "labels": [0 or 1, one per choice]}, or of
// TruthfulQA's {"question", "mc1_targets", "mc2_targets"}, whose targets are {text: 0 or 1} or
// {"choices", "labels"}; a whole file may also be one JSON array of such objects, as TruthfulQA's
// mc_task.json is.  Parquet and Arrow hold the same rows.  Equal texts are one choice.
ChoiceSet read_mc_items(const std::filesystem::path& path, BadRows bad_rows);

// CSV without a header as github.com/hendrycks/test has it: question, A, B, C, D, answer.  `path`
// is one <subject>_test.csv, or a directory of them (or a directory with a folder test of them);
// <subject>_dev.csv with the five examples lies beside it, or in a folder dev beside the folder
// test.
ChoiceSet read_mmlu_items(const std::filesystem::path& path, BadRows bad_rows);

}  // namespace bipo
