// Splits comma-separated or tab-separated text into rows and fields.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

struct CsvRow {
  std::size_t line = 0;  // 1-based, where the row begins
  std::vector<std::string> fields;
  std::string defect;  // why the row cannot be split into fields; empty where it can
};

// Splits RFC 4180 text into rows, also with another separator of fields than the comma.  A quoted
// field may hold separators, line breaks and doubled quotes.
class CsvReader {
 public:
  // `text` must outlive the reader; `file` is its name in messages.
  CsvReader(std::string_view text, std::string file, char separator = ',');

  // Returns nullopt once only blank lines are left.  Throws UserError with file:line for a quote
  // that is never closed: it includes the rest of the file, so there is no row to skip.
  std::optional<CsvRow> next();

 private:
  bool at(char expected) const;
  bool take(char expected);
  bool at_line_end() const;
  bool take_line_end();
  std::string plain_field();
  std::string quoted_field(const CsvRow& row);
  void skip_to_next_line();

  std::string_view text_;
  std::string file_;
  char separator_;
  std::size_t content_end_;  // only blanks follow
  std::size_t position_ = 0;
  std::size_t line_ = 1;
};

// Throws UserError, which begins with `where`, for a row that cannot be split, does not have
// `count` fields, or is not UTF-8 text.  `expected` names what determines the count.
void require_csv_row(const CsvRow& row, std::size_t count, std::string_view expected,
                     const std::string& where);

// Reads the rows below a header, by the names of their columns.
class CsvTable {
 public:
  // Reads the header of `text`, which must outlive the table.  Throws UserError with file:line for
  // a malformed header, or a column that it does not name exactly once.
  CsvTable(std::string_view text, const std::string& file,
           const std::vector<std::string_view>& columns);

  // Moves to the next row; false after the last.  Throws as CsvReader::next() does.
  bool next();

  const std::string& where() const { return where_; }  // file:line of the row

  // Returns the row's fields of the columns, in the columns' order.  Throws UserError for a bad
  // row.
  std::vector<std::string> fields() const;

 private:
  std::string file_;
  CsvReader reader_;
  CsvRow row_;  // at first the header
  std::string where_;
  std::size_t field_count_;
  std::vector<std::size_t> columns_;
};

}  // namespace bipo
