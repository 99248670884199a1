#include "datasets/rows/row_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::array<std::string_view, 9> kMappableNames = {
    "prompt",       "chosen",   "rejected",
    "system",       "question", "matching",
    "not_matching", "tools",    "chat_template_kwargs"};

ColumnName parse_column(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  if (equals == std::string_view::npos ||
      std::find(kMappableNames.begin(), kMappableNames.end(), name) == kMappableNames.end()) {
    throw UserError(
        fmt::format("'{}': write NAME=COLUMN, where COLUMN is the file's and NAME is one of {}",
                    text, fmt::join(kMappableNames, ", ")));
  }
  return {std::string(name), std::string(text.substr(equals + 1))};
}

}  // namespace

std::vector<ColumnName> parse_columns(const std::string& text) {
  std::vector<ColumnName> columns;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(','), rest.size());
    const ColumnName column = parse_column(rest.substr(0, end));
    if (std::any_of(columns.begin(), columns.end(),
                    [&](const ColumnName& other) { return other.name == column.name; })) {
      throw UserError(fmt::format("'{}' is given twice", column.name));
    }
    columns.push_back(column);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return columns;
}

}  // namespace bipo
