#include "datasets/text/csv_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"

namespace bipo {

CsvReader::CsvReader(std::string_view text, std::string file, char separator)
    : text_(text),
      file_(std::move(file)),
      separator_(separator),
      content_end_(text.find_last_not_of(kBlanks) + 1) {
}

std::optional<CsvRow> CsvReader::next() {
  if (position_ >= content_end_) {
    return std::nullopt;
  }
  CsvRow row;
  row.line = line_;
  do {
    row.fields.push_back(at('"') ? quoted_field(row) : plain_field());
  } while (take(separator_));
  if (!take_line_end() && position_ < text_.size()) {
    row.defect = fmt::format(
        "text follows the closing quote of field {}; double every quote inside a quoted field",
        row.fields.size());
    skip_to_next_line();
  }
  return row;
}

bool CsvReader::at(char expected) const {
  return position_ < text_.size() && text_[position_] == expected;
}

bool CsvReader::take(char expected) {
  if (!at(expected)) {
    return false;
  }
  ++position_;
  return true;
}

bool CsvReader::at_line_end() const {
  return at('\n') || text_.substr(position_, 2) == "\r\n";
}

bool CsvReader::take_line_end() {
  if (!at_line_end()) {
    return false;
  }
  take('\r');
  take('\n');
  ++line_;
  return true;
}

std::string CsvReader::plain_field() {
  const std::size_t begin = position_;
  while (position_ < text_.size() && !at(separator_) && !at_line_end()) {
    ++position_;
  }
  return std::string(text_.substr(begin, position_ - begin));
}

std::string CsvReader::quoted_field(const CsvRow& row) {
  const std::size_t opening_line = line_;
  std::string field;
  ++position_;
  while (position_ < text_.size()) {
    const char character = text_[position_++];
    if (character == '"' && !take('"')) {
      return field;
    }
    line_ += character == '\n' ? 1 : 0;
    field += character;
  }
  throw UserError(fmt::format(
      "{}:{}: the quote that opens field {} is never closed; close it, or double the quotes "
      "inside the field",
      file_, opening_line, row.fields.size() + 1));
}

void CsvReader::skip_to_next_line() {
  while (position_ < text_.size() && !take_line_end()) {
    ++position_;
  }
}

namespace {

// Returns where the header has each of `names`.
std::vector<std::size_t> find_columns(const CsvRow& header, const std::string& where,
                                      const std::vector<std::string_view>& names) {
  require_csv_row(header, header.fields.size(), "the header", where);
  const auto& fields = header.fields;
  std::vector<std::size_t> columns;
  for (const std::string_view name : names) {
    const auto found = std::find(fields.begin(), fields.end(), name);
    if (found == fields.end() || std::count(found, fields.end(), name) > 1) {
      const std::string needed =
          names.size() == 1
              ? fmt::format("column {} is", name)
              : fmt::format("columns {} and {} are",
                            fmt::join(names.begin(), names.end() - 1, ", "), names.back());
      throw UserError(
          fmt::format("{}: the header must name the column '{}' once; it reads '{}', and the {} "
                      "needed",
                      where, name, fmt::join(fields, ","), needed));
    }
    columns.push_back(static_cast<std::size_t>(found - fields.begin()));
  }
  return columns;
}

}  // namespace

void require_csv_row(const CsvRow& row, std::size_t count, std::string_view expected,
                     const std::string& where) {
  if (!row.defect.empty()) {
    throw UserError(fmt::format("{}: {}", where, row.defect));
  }
  if (row.fields.size() != count) {
    throw UserError(fmt::format(
        "{}: the row has {} fields where {} has {}; quote fields that hold commas or line breaks",
        where, row.fields.size(), expected, count));
  }
  for (const std::string& field : row.fields) {
    require_text(field, where);
  }
}

CsvTable::CsvTable(std::string_view text, const std::string& file,
                   const std::vector<std::string_view>& columns)
    : file_(file),
      reader_(text, file),
      row_(*reader_.next()),
      where_(fmt::format("{}:{}", file, row_.line)),
      field_count_(row_.fields.size()),
      columns_(find_columns(row_, where_, columns)) {
}

bool CsvTable::next() {
  std::optional<CsvRow> row = reader_.next();
  if (!row) {
    return false;
  }
  row_ = *std::move(row);
  where_ = fmt::format("{}:{}", file_, row_.line);
  return true;
}

std::vector<std::string> CsvTable::fields() const {
  require_csv_row(row_, field_count_, "the header", where_);
  std::vector<std::string> fields;
  for (const std::size_t column : columns_) {
    fields.push_back(row_.fields[column]);
  }
  return fields;
}

}  // namespace bipo
