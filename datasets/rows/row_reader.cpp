#include "datasets/rows/row_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/text/template_variable.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using OrderedJson = nlohmann::ordered_json;

// Tables of text hold message lists as JSON; what Python prints of a list is no JSON.
bool looks_like_messages(std::string_view text) {
  return (text.starts_with("[{") || text.starts_with("[ {")) &&
         text.find("role") != std::string_view::npos &&
         text.find("content") != std::string_view::npos;
}

std::vector<std::string> split_at_semicolons(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(';'), text.size());
    if (const std::string_view part = without_blanks(text.substr(0, end)); !part.empty()) {
      parts.emplace_back(part);
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

}  // namespace

void ColumnUse::see(const nlohmann::ordered_json& row) {
  for (const auto& [column, unused] : row.items()) {
    if (used_.try_emplace(column, false).second) {
      order_.push_back(column);
    }
  }
}

bool ColumnUse::is_used(const std::string& column) const {
  const auto found = used_.find(column);
  return found != used_.end() && found->second;
}

std::vector<std::string> ColumnUse::unused() const {
  std::vector<std::string> columns;
  for (const std::string& column : order_) {
    if (!used_.at(column)) {
      columns.push_back(column);
    }
  }
  return columns;
}

void RowReader::require_text_alone() const {
  for (const char* key : {"images", "image"}) {
    const auto found = row_.find(key);
    const bool is_empty = found == row_.end() || found->is_null() || found->empty() || *found == "";
    if (!is_empty) {
      throw UserError(fmt::format(
          "{}: '{}' holds an image; only text is supported, because only the text part of a model "
          "is computed, so leave the row out with --skip-bad, or the column if the text does not "
          "speak of the image",
          where_, key));
    }
  }
}

const OrderedJson& RowReader::value(const std::string& key) const {
  const auto found = row_.find(key);
  if (found == row_.end()) {
    throw UserError(fmt::format("{}: the key '{}' is missing", where_, key));
  }
  use_.use(key);
  return *found;
}

const OrderedJson& RowReader::text_or_messages(const std::string& key) const {
  const OrderedJson& value = this->value(key);
  if (!value.is_string() && !value.is_array()) {
    throw UserError(fmt::format("{}: '{}' must be a string or an array of messages, not {}", where_,
                                key, value.type_name()));
  }
  if (value.is_string() && looks_like_messages(value.get_ref<const std::string&>())) {
    throw UserError(fmt::format(
        "{}: '{}' is the text of a list of messages instead of the list; write JSON Lines or "
        "Parquet, which hold lists",
        where_, key));
  }
  return value;
}

std::string RowReader::text(const std::string& key) const {
  const OrderedJson& value = this->value(key);
  if (!value.is_string()) {
    throw UserError(
        fmt::format("{}: '{}' must be a string, not {}", where_, key, value.type_name()));
  }
  require_no_nul(value.get_ref<const std::string&>(), where_);
  return value.get<std::string>();
}

std::string RowReader::optional_text(const std::string& key) const {
  const auto found = row_.find(key);
  return found == row_.end() || found->is_null() ? std::string() : text(key);
}

std::vector<Message> RowReader::prompt(const std::string& key) const {
  return prompt_from_json(text_or_messages(key), key, where_);
}

std::vector<Message> RowReader::answer(const std::string& key) const {
  if (const OrderedJson& value = this->value(key); value.is_object()) {
    return messages_from_json(OrderedJson::array({value}), key, where_);
  }
  const OrderedJson& value = text_or_messages(key);
  if (value.is_string()) {
    return {{"assistant", value.get<std::string>()}};
  }
  return messages_from_json(value, key, where_);
}

std::vector<Message> RowReader::conversation(const std::string& key) const {
  const OrderedJson& value = this->value(key);
  if (!value.is_array()) {
    throw UserError(fmt::format("{}: '{}' must be an array of messages, not {}", where_, key,
                                value.type_name()));
  }
  return messages_from_json(value, key, where_);
}

std::vector<std::string> RowReader::texts(const std::string& key) const {
  const OrderedJson& value = this->value(key);
  std::vector<std::string> texts;
  if (value.is_string()) {
    texts = split_at_semicolons(value.get_ref<const std::string&>());
  } else if (value.is_array()) {
    for (const OrderedJson& element : value) {
      if (!element.is_string()) {
        throw UserError(fmt::format("{}: '{}' holds {}; it must be an array of strings", where_,
                                    key, element.type_name()));
      }
      texts.push_back(element.get<std::string>());
    }
  }
  if (texts.empty()) {
    throw UserError(fmt::format("{}: '{}' holds no text", where_, key));
  }
  return texts;
}

OrderedJson RowReader::json_member(const std::string& key) const {
  if (!row_.contains(key)) {
    return nullptr;
  }
  const OrderedJson& value = this->value(key);
  if (!value.is_string()) {
    return value;
  }
  const auto& text = value.get_ref<const std::string&>();
  return is_blank(text) ? OrderedJson()
                        : parse_ordered_json(text, fmt::format("{}: '{}'", where_, key),
                                             "a string there must be JSON");
}

OrderedJson RowReader::template_variables() const {
  auto variables = OrderedJson::object();
  const OrderedJson tools = json_member("tools");
  if (!tools.is_null()) {
    if (!tools.is_array() || !std::all_of(tools.begin(), tools.end(), [](const OrderedJson& tool) {
          return tool.is_object();
        })) {
      throw UserError(fmt::format(
          "{}: 'tools' must be a list of objects, or such a list as JSON text", where_));
    }
    variables["tools"] = tools;
  }
  const OrderedJson further = json_member("chat_template_kwargs");
  if (further.is_null()) {
    return variables;
  }
  if (!further.is_object()) {
    throw UserError(fmt::format("{}: 'chat_template_kwargs' must be an object", where_));
  }
  for (const auto& [name, value] : further.items()) {
    if (is_parameter_of_rendering(name)) {
      throw UserError(fmt::format(
          "{}: 'chat_template_kwargs' holds '{}', which is no variable of a template; remove it",
          where_, name));
    }
    variables[name] = value;
  }
  return variables;
}

}  // namespace bipo
