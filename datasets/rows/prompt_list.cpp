#include "datasets/rows/prompt_list.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/data_rows.hpp"
#include "datasets/rows/row_forms.hpp"
#include "datasets/rows/row_reader.hpp"
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
  return {std::move(messages), nlohmann::ordered_json::object(), where};
}

void read_rows(const std::filesystem::path& path, PromptCollector& prompts) {
  ColumnUse columns;
  DataRowVisitor visitor;
  bool has_questions = false;  // a column: it comes before `prompt` then
  visitor.columns = [&](const std::vector<std::string>& names, const std::string& where) {
    require_prompt_column(names, where);
    has_questions = std::find(names.begin(), names.end(), "question") != names.end();
  };
  visitor.row = [&](const MakeRow& make, const std::string& where) {
    prompts.add([&] {
      const nlohmann::ordered_json row = make();
      const RowReader reader(row, where, columns);
      Prompt prompt = from_messages(prompt_of_row(row, has_questions, reader), where);
      prompt.template_variables = reader.template_variables();
      return prompt;
    });
  };
  for_each_data_row(path, visitor);
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
  PromptFile file;
  PromptCollector prompts(bad_rows, file.prompts, file.skipped);
  if (data_suffix(path) == ".txt") {
    const std::string text = read_data_text(path);
    for_each_line(text, name, [&](std::string_view line, const std::string& where) {
      prompts.add([&] {
        return prompt_from_text(
            std::string(line.ends_with('\r') ? line.substr(0, line.size() - 1) : line), where);
      });
    });
  } else {
    read_rows(path, prompts);
  }
  if (file.prompts.empty()) {
    throw UserError(fmt::format(
        "{}: holds no prompt{}", name,
        file.skipped.empty() ? std::string() : "; the first left out: " + file.skipped.front()));
  }
  return file;
}

}  // namespace bipo
