// Splits comma-separated text into rows and fields.
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

// Splits RFC 4180 text into rows.  A quoted field may hold commas, line breaks and doubled quotes.
class CsvReader {
 public:
  // `text` must outlive the reader; `file` is its name in messages.
  CsvReader(std::string_view text, std::string file);

  // Nothing once only blank lines are left.  Throws UserError with file:line for a quote that is
  // never closed: it swallows the rest of the file, so it is no row that could be skipped.
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
  std::size_t content_end_;  // what follows is blank
  std::size_t position_ = 0;
  std::size_t line_ = 1;
};

// Where the header has each of `names`, in their order.  Throws UserError, which begins with
// `where`, for a defect in the header, or a name that it does not hold exactly once.
std::vector<std::size_t> find_csv_columns(const CsvRow& header, const std::string& where,
                                          const std::vector<std::string_view>& names);

// Throws UserError, which begins with `where`, for a row that cannot be split, has not `count`
// fields, or holds anything but UTF-8 text.  `expected` says whose count it is.
void require_csv_row(const CsvRow& row, std::size_t count, std::string_view expected,
                     const std::string& where);

}  // namespace bipo
