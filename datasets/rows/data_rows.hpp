// The containers of data files: CSV, TSV, JSON Lines, JSON arrays, Parquet and Arrow, as rows that
// are JSON objects.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bipo {

// Makes the object of one row; throws UserError, which names the place, for a bad row.
using MakeRow = std::function<nlohmann::ordered_json()>;

struct DataRowVisitor {
  // Called once with the columns of a table, before its rows; may refuse them.  Not called for
  // JSON, whose rows have keys of their own.
  std::function<void(const std::vector<std::string>& columns, const std::string& where)> columns;
  std::function<void(const MakeRow& make, const std::string& where)> row;
};

// Visits all rows.  The suffix decides: .csv, .tsv, .jsonl, .ndjson and .json (lines, or one
// array), each also as .gz; .parquet and .arrow.  `path` may also be a directory of datasets'
// save_to_disk, or name the parts `path`-00000-of-00002.parquet without their numbers.  Rows of
// tables of text hold strings, empty ones too.  Throws UserError for what is none of these.
void for_each_data_row(const std::filesystem::path& path, const DataRowVisitor& visitor);

}  // namespace bipo
