#include "datasets/prompt_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/errors.hpp"
#include "datasets/csv_reader.hpp"
#include "datasets/data_text.hpp"
#include "datasets/json_lines.hpp"

namespace bipo {
namespace {

Prompt from_messages(std::vector<Message> messages, const std::string& where) {
  require_user_turn_last(messages, "prompt", where);
  if (is_blank(messages.back().content)) {
    throw UserError(fmt::format("{}: the prompt is empty; every prompt needs text", where));
  }
  return {std::move(messages), where};
}

std::vector<Prompt> from_csv(std::string_view text, const std::string& file) {
  CsvReader reader(text, file);
  const CsvRow header = *reader.next();
  const bool has_questions =
      std::find(header.fields.begin(), header.fields.end(), "question") != header.fields.end();
  const std::size_t column = find_csv_columns(header, fmt::format("{}:{}", file, header.line),
                                              {has_questions ? "question" : "prompt"})
                                 .front();
  std::vector<Prompt> prompts;
  while (const auto row = reader.next()) {
    const std::string where = fmt::format("{}:{}", file, row->line);
    require_csv_row(*row, header.fields.size(), "the header", where);
    prompts.push_back(from_messages({{"user", row->fields[column]}}, where));
  }
  return prompts;
}

std::vector<Prompt> from_json_lines(std::string_view text, const std::string& file) {
  std::vector<Prompt> prompts;
  for_each_line(text, file, [&](std::string_view line, const std::string& where) {
    const nlohmann::json row = parse_json_line(line, where);
    for (const char* key : {"prompt", "prompt_arr", "question"}) {
      if (row.contains(key)) {
        prompts.push_back(from_messages(prompt_from_json(row[key], key, where), where));
        return;
      }
    }
    throw UserError(
        fmt::format("{}: the row has no prompt; name it 'prompt' or 'question'", where));
  });
  return prompts;
}

}  // namespace

Prompt prompt_from_text(const std::string& text, const std::string& where) {
  require_text(text, where);
  return from_messages({{"user", text}}, where);
}

std::vector<Prompt> read_prompts(const std::filesystem::path& path) {
  const std::string name = path.string();
  const std::string bytes = read_data_text(path);
  const std::string_view text = bytes;
  const std::string suffix = lower_extension(path);
  std::vector<Prompt> prompts;
  if (suffix == ".csv") {
    prompts = from_csv(text, name);
  } else if (suffix == ".jsonl" || suffix == ".ndjson" || suffix == ".json") {
    prompts = from_json_lines(text, name);
  } else if (suffix == ".txt") {
    for_each_line(text, name, [&](std::string_view line, const std::string& where) {
      prompts.push_back(prompt_from_text(
          std::string(line.ends_with('\r') ? line.substr(0, line.size() - 1) : line), where));
    });
  } else {
    throw UserError(fmt::format(
        "{}: the suffix '{}' says neither text, CSV nor JSON Lines; use .txt, .csv or .jsonl", name,
        suffix));
  }
  if (prompts.empty()) {
    throw UserError(fmt::format("{}: holds no prompt", name));
  }
  return prompts;
}

}  // namespace bipo
