// The forms in which rows of preference pairs are published, recognised by their keys.
#pragma once

#include <string>
#include <vector>

#include "datasets/rows/preference_pairs.hpp"
#include "datasets/rows/row_options.hpp"
#include "datasets/rows/row_reader.hpp"

namespace bipo {

struct RowForm;

// Returns the first form that the row has.  `columns_given`: the user has named columns, so that a
// further one cannot be a forgotten prompt.  `keeps_transcripts`: see RowOptions.  Throws UserError
// for a row of no form: it names the keys that are missing, or what the row is instead, and what to
// do.
const RowForm& form_of_row(const nlohmann::ordered_json& row, bool columns_given,
                           bool keeps_transcripts, const std::string& where);

// Refuses a table whose columns are those of no form, or name a column of use twice.
void require_columns_of_form(const std::vector<std::string>& columns, const std::string& where);

const std::string& form_name(const RowForm& form);

// Returns the row's pairs, at least one.  Throws UserError for a row that breaks a rule.
std::vector<PreferencePair> pairs_of_row(const RowForm& form, const RowReader& row,
                                         AnswerPairs answers);

// Refuses a table without a column that holds prompts.
void require_prompt_column(const std::vector<std::string>& columns, const std::string& where);

// Returns the prompt of a row of prompts or pairs, its answers not looked at where the prompt has a
// key of its own.  `question_first`: `question` counts before `prompt`.  Throws UserError for a row
// without a prompt.
std::vector<Message> prompt_of_row(const nlohmann::ordered_json& row, bool question_first,
                                   const RowReader& reader);

}  // namespace bipo
