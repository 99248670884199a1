#include "datasets/rows/row_forms.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/common_beginning.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"

namespace bipo {

struct RowForm {
  std::string name;
  std::vector<std::string> keys;  // all of them must be there
  bool (*fits)(const nlohmann::ordered_json& row);
  std::vector<PreferencePair> (*read)(const RowReader& row, AnswerPairs answers);
};

namespace {

using RowJson = nlohmann::ordered_json;
using Pairs = std::vector<PreferencePair>;

// ---- what all forms share

// An assistant's turn must be there, and the first of them must say or do something.
void require_answer_text(const std::vector<Message>& answer, const std::string& where,
                         std::string_view key) {
  for (const Message& turn : answer) {
    require_no_nul(turn.content, where);
  }
  const auto first = std::find_if(answer.begin(), answer.end(),
                                  [](const Message& turn) { return turn.role == "assistant"; });
  if (first == answer.end()) {
    throw UserError(fmt::format("{}: {} holds no assistant turn", where, key));
  }
  if (is_blank(first->content) && !first->extra.contains("content") &&
      !first->extra.contains("tool_calls")) {
    throw UserError(fmt::format("{}: {} is empty; every pair needs text there", where, key));
  }
}

void require_answer_first(const std::vector<Message>& answer, const std::string& where,
                          std::string_view key) {
  if (answer.front().role != "assistant") {
    throw UserError(fmt::format(
        "{}: '{}' must begin with an assistant turn, the answer to the prompt, but begins with "
        "'{}'; an answer that is a whole conversation needs the prompt's turns in it",
        where, key, answer.front().role));
  }
}

struct PairKeys {
  std::string prompt;
  std::string chosen;
  std::string rejected;
};

PreferencePair make_pair(std::vector<Message> prompt, std::vector<Message> chosen,
                         std::vector<Message> rejected, const PairKeys& keys,
                         const RowReader& row) {
  require_answer_text(chosen, row.where(), keys.chosen);
  require_answer_text(rejected, row.where(), keys.rejected);
  PreferencePair pair;
  pair.prompt = std::move(prompt);
  pair.chosen = std::move(chosen);
  pair.rejected = std::move(rejected);
  pair.template_variables = row.template_variables();
  pair.where = row.where();
  return pair;
}

PreferencePair checked_pair(std::vector<Message> prompt, std::vector<Message> chosen,
                            std::vector<Message> rejected, const PairKeys& keys,
                            const RowReader& row) {
  require_user_turn_last(prompt, keys.prompt, row.where());
  require_answer_first(chosen, row.where(), keys.chosen);
  require_answer_first(rejected, row.where(), keys.rejected);
  return make_pair(std::move(prompt), std::move(chosen), std::move(rejected), keys, row);
}

// Puts the column `system` before a prompt that has no system turn of its own.
std::vector<Message> with_system_column(std::vector<Message> prompt, const RowReader& row) {
  const bool has_own = !prompt.empty() && prompt.front().role == "system";
  const std::string system = has_own ? "" : row.optional_text("system");
  if (!is_blank(system)) {
    prompt.insert(prompt.begin(), Message{"system", system});
  }
  return prompt;
}

bool is_conversation(const RowJson& value) {
  if (!value.is_array() || value.empty() || !value.front().is_object()) {
    return false;
  }
  const auto role = value.front().find("role");
  return role != value.front().end() ? *role != "assistant" : value.front().value("from", "") != "";
}

bool any_row(const RowJson& /*row*/) {
  return true;
}

// ---- one question, a text for each answer

PreferencePair text_pair(const std::string& question, const std::string& chosen,
                         const std::string& rejected, const PairKeys& keys, const RowReader& row) {
  return checked_pair(with_system_column({{"user", question}}, row), {{"assistant", chosen}},
                      {{"assistant", rejected}}, keys, row);
}

Pairs read_matching(const RowReader& row, AnswerPairs /*answers*/) {
  return {text_pair(row.text("question"), row.text("matching"), row.text("not_matching"),
                    {"question", "matching", "not_matching"}, row)};
}

Pairs all_pairs(const std::string& question, const std::vector<std::string>& right,
                const std::vector<std::string>& wrong, const PairKeys& keys, const RowReader& row) {
  Pairs pairs;
  for (const std::string& chosen : right) {
    for (const std::string& rejected : wrong) {
      pairs.push_back(text_pair(question, chosen, rejected, keys, row));
    }
  }
  return pairs;
}

std::vector<std::string> text_or_texts(const RowReader& row, const std::string& key,
                                       AnswerPairs answers, const RowJson& value) {
  std::vector<std::string> texts = value.is_string() ? std::vector{row.text(key)} : row.texts(key);
  if (answers == AnswerPairs::kBest) {
    texts.resize(1);
  }
  return texts;
}

Pairs read_evals(const RowReader& row, AnswerPairs answers) {
  const std::string matching = "answer_matching_behavior";
  const std::string other = "answer_not_matching_behavior";
  return all_pairs(row.text("question"), text_or_texts(row, matching, answers, row.value(matching)),
                   text_or_texts(row, other, answers, row.value(other)),
                   {"question", matching, other}, row);
}

Pairs read_truthful_qa(const PairKeys& best, const std::string& right, const std::string& wrong,
                       const RowReader& row, AnswerPairs answers) {
  const std::string question = row.text(best.prompt);
  if (answers == AnswerPairs::kAll) {
    return all_pairs(question, row.texts(right), row.texts(wrong), {best.prompt, right, wrong},
                     row);
  }
  // Early versions name no best incorrect answer; the first is taken.
  const std::string rejected =
      row.has(best.rejected) ? row.text(best.rejected) : row.texts(wrong).front();
  return {text_pair(question, row.text(best.chosen), rejected, best, row)};
}

Pairs read_truthful_qa_table(const RowReader& row, AnswerPairs answers) {
  return read_truthful_qa({"Question", "Best Answer", "Best Incorrect Answer"}, "Correct Answers",
                          "Incorrect Answers", row, answers);
}

Pairs read_truthful_qa_copy(const RowReader& row, AnswerPairs answers) {
  return read_truthful_qa({"question", "best_answer", "best_incorrect_answer"}, "correct_answers",
                          "incorrect_answers", row, answers);
}

// ---- a prompt beside the answers

Pairs read_explicit(const PairKeys& keys, const RowReader& row) {
  return {checked_pair(with_system_column(row.prompt(keys.prompt), row), row.answer(keys.chosen),
                       row.answer(keys.rejected), keys, row)};
}

Pairs read_prompt(const RowReader& row, AnswerPairs /*answers*/) {
  return read_explicit({"prompt", "chosen", "rejected"}, row);
}

Pairs read_prompt_arr(const RowReader& row, AnswerPairs /*answers*/) {
  return read_explicit({"prompt_arr", "chosen_arr", "rejected_arr"}, row);
}

Pairs read_question(const RowReader& row, AnswerPairs /*answers*/) {
  return read_explicit({"question", "chosen", "rejected"}, row);
}

Pairs read_input(const RowReader& row, AnswerPairs /*answers*/) {
  return read_explicit({"input", "chosen", "rejected"}, row);
}

Pairs read_share_gpt(const RowReader& row, AnswerPairs /*answers*/) {
  return read_explicit({"conversations", "chosen", "rejected"}, row);
}

// LLaMA-Factory's: instruction and input are the user's turn, `history` holds pairs of turns
// before.
std::vector<Message> alpaca_prompt(const RowReader& row) {
  std::vector<Message> prompt;
  if (row.has("history") && row.value("history").is_array()) {
    for (const RowJson& turns : row.value("history")) {
      if (!turns.is_array() || turns.size() != 2 || !turns[0].is_string() ||
          !turns[1].is_string()) {
        throw UserError(
            fmt::format("{}: 'history' must be a list of [question, answer]", row.where()));
      }
      prompt.push_back({"user", turns[0].get<std::string>()});
      prompt.push_back({"assistant", turns[1].get<std::string>()});
    }
  }
  const std::string input = row.optional_text("input");
  prompt.push_back({"user", row.text("instruction") + (input.empty() ? "" : "\n" + input)});
  return with_system_column(std::move(prompt), row);
}

Pairs read_alpaca_keys(const PairKeys& keys, const RowReader& row) {
  return {checked_pair(alpaca_prompt(row), row.answer(keys.chosen), row.answer(keys.rejected), keys,
                       row)};
}

Pairs read_alpaca(const RowReader& row, AnswerPairs /*answers*/) {
  return read_alpaca_keys({"instruction", "chosen", "rejected"}, row);
}

Pairs read_alpaca_responses(const RowReader& row, AnswerPairs /*answers*/) {
  return read_alpaca_keys({"instruction", "chosen_response", "rejected_response"}, row);
}

// ---- the prompt is what the answers have in common

Pairs parted_pair(const std::vector<Message>& chosen, const std::vector<Message>& rejected,
                  const RowReader& row) {
  PartedTurns parted = part_conversations(chosen, rejected);
  const bool has_question = std::any_of(parted.prompt.begin(), parted.prompt.end(),
                                        [](const Message& turn) { return turn.role != "system"; });
  if (!has_question) {
    throw UserError(fmt::format(
        "{}: 'chosen' and 'rejected' differ from their first turn on, so that they have no prompt "
        "in common",
        row.where()));
  }
  return {make_pair(with_system_column(std::move(parted.prompt), row), std::move(parted.chosen),
                    std::move(parted.rejected), {"prompt", "chosen", "rejected"}, row)};
}

Pairs read_conversations(const RowReader& row, AnswerPairs /*answers*/) {
  return parted_pair(row.conversation("chosen"), row.conversation("rejected"), row);
}

Pairs read_transcripts(const RowReader& row, AnswerPairs /*answers*/) {
  return parted_pair(transcript_turns(row.text("chosen")), transcript_turns(row.text("rejected")),
                     row);
}

Pairs read_texts(const RowReader& row, AnswerPairs /*answers*/) {
  const PartedTexts parted = part_texts(row.text("chosen"), row.text("rejected"));
  if (is_blank(parted.prompt)) {
    throw UserError(fmt::format(
        "{}: the key 'prompt' is missing, and 'chosen' and 'rejected' have no common beginning "
        "that could be it",
        row.where()));
  }
  return {text_pair(parted.prompt, parted.chosen, parted.rejected, {"prompt", "chosen", "rejected"},
                    row)};
}

bool is_turn(const Message& turn, const Message& expected) {
  return turn.role == expected.role &&
         without_blanks(turn.content) == without_blanks(expected.content);
}

// Refuses a prompt column that says something else than the conversations beside it.
void require_prompt_in(const std::vector<Message>& common, const RowReader& row,
                       const std::string& key) {
  const std::vector<Message> prompt = row.prompt(key);
  const bool is_text = row.value(key).is_string();
  const bool is_there =
      is_text ? std::any_of(common.begin(), common.end(),
                            [&](const Message& turn) { return is_turn(turn, prompt.front()); })
              : prompt.size() <= common.size() &&
                    std::equal(prompt.begin(), prompt.end(), common.begin(), is_turn);
  if (!is_there) {
    throw UserError(fmt::format(
        "{}: '{}' is not among the turns that 'chosen' and 'rejected' begin with; hide it with "
        "--columns prompt= if they are whole conversations",
        row.where(), key));
  }
}

// Whether `chosen` goes on where the messages of the prompt end, with an assistant's turn.
bool is_continued(const RowJson& prompt, const std::vector<Message>& chosen, const RowReader& row,
                  const std::string& key) {
  if (!prompt.is_array()) {
    return false;
  }
  const std::vector<Message> turns = row.prompt(key);
  const bool is_repeated = turns.size() <= chosen.size() &&
                           std::equal(turns.begin(), turns.end(), chosen.begin(), is_turn);
  return turns.back().role == "assistant" && !is_repeated;
}

Pairs read_conversations_beside(const std::string& key, const RowReader& row) {
  const std::vector<Message> chosen = row.conversation("chosen");
  const std::vector<Message> rejected = row.conversation("rejected");
  if (is_continued(row.value(key), chosen, row, key)) {
    return {make_pair(with_system_column(row.prompt(key), row), chosen, rejected,
                      {key, "chosen", "rejected"}, row)};
  }
  Pairs pairs = parted_pair(chosen, rejected, row);
  require_prompt_in(pairs.front().prompt, row, key);
  return pairs;
}

Pairs read_prompt_beside_conversations(const RowReader& row, AnswerPairs /*answers*/) {
  return read_conversations_beside("prompt", row);
}

Pairs read_question_beside_conversations(const RowReader& row, AnswerPairs /*answers*/) {
  return read_conversations_beside("question", row);
}

Pairs read_instruction_beside_conversations(const RowReader& row, AnswerPairs /*answers*/) {
  return read_conversations_beside("instruction", row);
}

bool has_conversations(const RowJson& row) {
  return is_conversation(row["chosen"]) && is_conversation(row["rejected"]);
}

bool has_arrays(const RowJson& row) {
  return row["chosen"].is_array() && row["rejected"].is_array();
}

bool has_strings(const RowJson& row) {
  return row["chosen"].is_string() && row["rejected"].is_string();
}

bool has_transcripts(const RowJson& row) {
  return has_strings(row) && is_transcript(row["chosen"].get_ref<const std::string&>()) &&
         is_transcript(row["rejected"].get_ref<const std::string&>());
}

const std::vector<RowForm>& row_forms() {
  static const std::vector<RowForm> forms = {
      {"question/matching/not_matching",
       {"question", "matching", "not_matching"},
       any_row,
       read_matching},
      {"Anthropic evals",
       {"question", "answer_matching_behavior", "answer_not_matching_behavior"},
       any_row,
       read_evals},
      {"TruthfulQA",
       {"Question", "Best Answer", "Incorrect Answers"},
       any_row,
       read_truthful_qa_table},
      {"TruthfulQA",
       {"question", "best_answer", "incorrect_answers"},
       any_row,
       read_truthful_qa_copy},
      {"prompt_arr/chosen_arr/rejected_arr",
       {"prompt_arr", "chosen_arr", "rejected_arr"},
       any_row,
       read_prompt_arr},
      {"prompt beside whole conversations (UltraFeedback)",
       {"prompt", "chosen", "rejected"},
       has_conversations,
       read_prompt_beside_conversations},
      {"prompt/chosen/rejected", {"prompt", "chosen", "rejected"}, any_row, read_prompt},
      {"question beside whole conversations",
       {"question", "chosen", "rejected"},
       has_conversations,
       read_question_beside_conversations},
      {"question/chosen/rejected (Orca)",
       {"question", "chosen", "rejected"},
       any_row,
       read_question},
      {"instruction beside whole conversations",
       {"instruction", "chosen", "rejected"},
       has_conversations,
       read_instruction_beside_conversations},
      {"instruction/input/chosen/rejected (Alpaca)",
       {"instruction", "chosen", "rejected"},
       any_row,
       read_alpaca},
      {"instruction/chosen_response/rejected_response",
       {"instruction", "chosen_response", "rejected_response"},
       any_row,
       read_alpaca_responses},
      {"input/chosen/rejected (Orca)",
       {"input", "chosen", "rejected"},
       [](const RowJson& row) { return row["input"].is_string() && !has_conversations(row); },
       read_input},
      {"conversations/chosen/rejected (ShareGPT)",
       {"conversations", "chosen", "rejected"},
       [](const RowJson& row) {
         return row["conversations"].is_array() && !has_conversations(row);
       },
       read_share_gpt},
      {"HH-RLHF transcripts", {"chosen", "rejected"}, has_transcripts, read_transcripts},
      {"conversations with a common beginning",
       {"chosen", "rejected"},
       has_arrays,
       read_conversations},
      {"texts with a common beginning", {"chosen", "rejected"}, has_strings, read_texts},
  };
  return forms;
}

// ---- rows of no form

// Data that hold something else than pairs, by keys that only they have, and what to do.
struct OtherData {
  std::vector<std::string> keys;
  std::string advice;
};

const std::vector<OtherData>& other_data() {
  static const std::vector<OtherData> kinds = {
      {{"question", "A", "B", "matching"}, "A/B questions: --choices-ab of evaluate reads them"},
      {{"mc1_targets"}, "TruthfulQA's choices: --choices-mc of evaluate reads them"},
      {{"completion", "label"},
       "single answers with a label (KTO), not pairs: join a good and a bad answer of each prompt"},
      {{"better_response_id"},
       "two responses with the better one's number (PKU-SafeRLHF): write it to chosen and the "
       "other "
       "to rejected"},
      {{"response1", "response2"},
       "two responses with a preference (HelpSteer): write the better to chosen, the other to "
       "rejected"},
      {{"human_ref_A", "human_ref_B"},
       "two replies with a label (SHP): write the better to chosen, the other to rejected"},
      {{"conversation_a", "conversation_b"},
       "two conversations with a winner (arena): write the winner to chosen, the other to "
       "rejected"},
      {{"completions"},
       "several scored completions (UltraFeedback, not binarized): take the binarized version"},
      {{"prompt", "completion"}, "prompts with one answer each, not pairs"},
      {{"instruction", "output"}, "instructions with one answer each, not pairs"},
      {{"messages"}, "conversations without a rejected answer, not pairs"},
      {{"conversations"}, "conversations without a rejected answer, not pairs"},
  };
  return kinds;
}

std::size_t count_present(const std::vector<std::string>& keys, const RowJson& row) {
  return static_cast<std::size_t>(std::count_if(
      keys.begin(), keys.end(), [&](const std::string& key) { return row.contains(key); }));
}

bool has_all(const std::vector<std::string>& keys, const RowJson& row) {
  return count_present(keys, row) == keys.size();
}

std::string keys_of(const RowJson& row) {
  constexpr std::size_t kShown = 20;
  std::vector<std::string> keys;
  for (const auto& [key, value] : row.items()) {
    keys.push_back(key);
  }
  const std::size_t more = keys.size() > kShown ? keys.size() - kShown : 0;
  keys.resize(keys.size() - more);
  return fmt::format("'{}'{}", fmt::join(keys, "', '"),
                     more == 0 ? std::string() : fmt::format(" and {} more", more));
}

[[noreturn]] void refuse_row(const RowJson& row, const std::string& where) {
  const bool has_answers = row.contains("chosen") || row.contains("rejected");
  for (const OtherData& kind : other_data()) {
    if (!has_answers && has_all(kind.keys, row)) {
      throw UserError(fmt::format("{}: the row is one of {}", where, kind.advice));
    }
  }
  const RowForm* nearest = nullptr;
  for (const RowForm& form : row_forms()) {
    if (form.keys.size() > 2 &&
        (nearest == nullptr || count_present(form.keys, row) > count_present(nearest->keys, row))) {
      nearest = &form;
    }
  }
  // Without any key, the commonest form serves as the example.
  if (count_present(nearest->keys, row) == 0) {
    nearest = &*std::find_if(row_forms().begin(), row_forms().end(), [](const RowForm& form) {
      return form.name == "prompt/chosen/rejected";
    });
  }
  std::vector<std::string> missing;
  std::copy_if(nearest->keys.begin(), nearest->keys.end(), std::back_inserter(missing),
               [&](const std::string& key) { return !row.contains(key); });
  const bool is_one = missing.size() == 1;
  throw UserError(fmt::format(
      "{}: the {} '{}' {} missing for a row {}; the row has {}; name other columns as in --columns "
      "prompt=question,chosen=best",
      where, is_one ? "key" : "keys", fmt::join(missing, "', '"), is_one ? "is" : "are",
      fmt::join(nearest->keys, "/"), keys_of(row)));
}

// Columns that hold a prompt by their names, in rows whose prompt would be a common beginning.
void require_no_other_prompt(const RowJson& row, const std::string& where) {
  static const std::vector<std::string> names = {"prompt_arr", "query",   "question", "instruction",
                                                 "input",      "context", "history",  "user",
                                                 "problem",    "request"};
  for (const std::string& name : names) {
    if (row.contains(name) && row[name].is_string()) {
      throw UserError(fmt::format(
          "{}: the key 'prompt' is missing; if '{}' is the prompt, say --columns prompt={}; if "
          "'chosen' and 'rejected' begin with it, say --columns chosen=chosen",
          where, name, name));
    }
  }
}

}  // namespace

const RowForm& form_of_row(const RowJson& row, bool columns_given, bool keeps_transcripts,
                           const std::string& where) {
  for (const char* key : {"prompt_arr", "chosen_arr", "rejected_arr"}) {
    const bool begun = row.contains("prompt_arr") || row.contains("chosen_arr");
    if (begun && !row.contains(key)) {
      throw UserError(fmt::format("{}: the key '{}' is missing", where, key));
    }
  }
  for (const RowForm& form : row_forms()) {
    const bool is_passed_over = keeps_transcripts && form.read == read_transcripts;
    if (!has_all(form.keys, row) || !form.fits(row) || is_passed_over) {
      continue;
    }
    if (form.read == read_texts && !columns_given) {
      require_no_other_prompt(row, where);
    }
    return form;
  }
  if (has_all({"chosen", "rejected"}, row) && !row.contains("prompt")) {
    throw UserError(fmt::format(
        "{}: the key 'prompt' is missing; without it 'chosen' and 'rejected' must both be strings "
        "or both arrays of messages, and not {} and {}",
        where, row["chosen"].type_name(), row["rejected"].type_name()));
  }
  refuse_row(row, where);
}

void require_columns_of_form(const std::vector<std::string>& columns, const std::string& where) {
  auto row = RowJson::object();
  for (const std::string& column : columns) {
    row[column] = "";
  }
  const std::vector<RowForm>& forms = row_forms();
  const auto found = std::find_if(forms.begin(), forms.end(),
                                  [&](const RowForm& form) { return has_all(form.keys, row); });
  if (found == forms.end()) {
    const bool other_separator =
        columns.size() == 1 && columns.front().find_first_of(";\t|") != std::string::npos;
    if (other_separator) {
      throw UserError(fmt::format(
          "{}: the header '{}' is one column; separate the fields with commas, or with tabs in a "
          ".tsv file",
          where, columns.front()));
    }
    refuse_row(row, where);
  }
  for (const std::string& key : found->keys) {
    if (std::count(columns.begin(), columns.end(), key) > 1) {
      throw UserError(fmt::format("{}: the header must name the column '{}' once; it reads '{}'",
                                  where, key, fmt::join(columns, ",")));
    }
  }
}

const std::string& form_name(const RowForm& form) {
  return form.name;
}

Pairs pairs_of_row(const RowForm& form, const RowReader& row, AnswerPairs answers) {
  row.require_text_alone();
  return form.read(row, answers);
}

void require_prompt_column(const std::vector<std::string>& columns, const std::string& where) {
  for (const char* name :
       {"prompt", "prompt_arr", "question", "Question", "instruction", "chosen"}) {
    const auto count = std::count(columns.begin(), columns.end(), name);
    if (count > 1) {
      throw UserError(fmt::format("{}: the header must name the column '{}' once; it reads '{}'",
                                  where, name, fmt::join(columns, ",")));
    }
    if (count == 1) {
      return;
    }
  }
  throw UserError(
      fmt::format("{}: the header reads '{}', but names no column 'question' or 'prompt'", where,
                  fmt::join(columns, ",")));
}

std::vector<Message> prompt_of_row(const RowJson& row, bool question_first,
                                   const RowReader& reader) {
  reader.require_text_alone();
  if (question_first) {
    return with_system_column(reader.prompt("question"), reader);
  }
  if (row.contains("instruction") && !row.contains("prompt")) {
    return alpaca_prompt(reader);
  }
  for (const char* key : {"prompt", "prompt_arr", "question", "Question", "messages"}) {
    if (row.contains(key)) {
      return with_system_column(reader.prompt(key), reader);
    }
  }
  if (row.contains("chosen") && row.contains("rejected")) {
    const RowForm& form = form_of_row(row, /*columns_given=*/true,
                                      /*keeps_transcripts=*/false, reader.where());
    return pairs_of_row(form, reader, AnswerPairs::kBest).front().prompt;
  }
  throw UserError(
      fmt::format("{}: the row has no prompt; name it 'prompt' or 'question'; the row has {}",
                  reader.where(), keys_of(row)));
}

}  // namespace bipo
