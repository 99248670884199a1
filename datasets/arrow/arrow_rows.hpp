// Rows of Parquet and Arrow files as JSON objects, through Arrow's C++ library.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bipo {

// Calls `columns` with the names of the columns, and `row` for every row with what makes its object
// and its place, "train.parquet:3" for the third.  Nulls of Arrow are nulls of JSON, and members of
// type JSON are parsed; numbers, dates and bytes become what JSON has for them.  `path` is a
// .parquet file, or an .arrow file in Arrow's file or stream format, as datasets writes them.
// Throws UserError for a file that is damaged, and in a program that was built without Arrow.
void for_each_arrow_row(
    const std::filesystem::path& path,
    const std::function<void(const std::vector<std::string>& names, const std::string& where)>&
        columns,
    const std::function<void(const std::function<nlohmann::ordered_json()>& make,
                             const std::string& where)>& row);

// Returns the version of Arrow's library, "" in a program that was built without it.
std::string arrow_version();

}  // namespace bipo
