#include "datasets/rows/prompt_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/csv_reader.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/text/row_collector.hpp"

namespace bipo {
namespace {

using PromptCollector = RowCollector<Prompt>;

Prompt from_messages(std::vector<Message> messages, const std::string& where) {
  require_user_turn_last(messages, "prompt", where);
  if (is_blank(messages.back().content)) {
    throw UserError(fmt::format("{}: the prompt is empty; every prompt needs text", where));
  }
  return {std::move(messages), where};
}

void add_csv(std::string_view text, const std::string& file, PromptCollector& prompts) {
  const std::vector<std::string> header = CsvReader(text, file).next()->fields;
  const bool has_questions = std::find(header.begin(), header.end(), "question") != header.end();
  CsvTable table(text, file, {has_questions ? "question" : "prompt"});
  while (table.next()) {
    prompts.add([&] { return from_messages({{"user", table.fields()[0]}}, table.where()); });
  }
}

Prompt from_json_line(std::string_view line, const std::string& where) {
  const nlohmann::json row = parse_json_line(line, where);
  for (const char* key : {"prompt", "prompt_arr", "question"}) {
    if (row.contains(key)) {
      return from_messages(prompt_from_json(row[key], key, where), where);
    }
  }
  throw UserError(fmt::format("{}: the row has no prompt; name it 'prompt' or 'question'", where));
}

}  // namespace

Prompt prompt_from_text(const std::string& text, const std::string& where) {
  require_text(text, where);
  return from_messages({{"user", text}}, where);
}

std::vector<Prompt> read_prompts(const std::filesystem::path& path) {
  return read_prompts(path, BadRows::kRefuse).prompts;
}

PromptFile read_prompts(const std::filesystem::path& path, BadRows bad_rows) {
  const std::string name = path.string();
  const std::string text = read_data_text(path);
  const std::string suffix = lower_extension(path);
  PromptFile file;
  PromptCollector prompts(bad_rows, file.prompts, file.skipped);
  if (suffix == ".csv") {
    add_csv(text, name, prompts);
  } else if (names_json_lines(suffix)) {
    for_each_line(text, name, [&](std::string_view line, const std::string& where) {
      prompts.add([&] { return from_json_line(line, where); });
    });
  } else if (suffix == ".txt") {
    for_each_line(text, name, [&](std::string_view line, const std::string& where) {
      prompts.add([&] {
        return prompt_from_text(
            std::string(line.ends_with('\r') ? line.substr(0, line.size() - 1) : line), where);
      });
    });
  } else {
    throw UserError(fmt::format(
        "{}: the suffix '{}' says neither text, CSV nor JSON Lines; use .txt, .csv or .jsonl", name,
        suffix));
  }
  if (file.prompts.empty()) {
    throw UserError(fmt::format(
        "{}: holds no prompt{}", name,
        file.skipped.empty() ? std::string() : "; the first left out: " + file.skipped.front()));
  }
  return file;
}

}  // namespace bipo
