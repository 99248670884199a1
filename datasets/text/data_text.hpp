// Reads whole text files of data, with the checks that every format needs.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace bipo {

// Returns the file's bytes, unpacked if they are gzip's, without a byte-order mark.  Throws
// UserError for a file that is missing, a directory, unreadable, cut short, or holds nothing but
// white space.
std::string read_data_text(const std::filesystem::path& path);

inline constexpr std::string_view kBlanks = " \t\r\n\v\f";  // ASCII white space
bool is_blank(std::string_view text);

// Returns the text without the blanks at its ends.
std::string_view without_blanks(std::string_view text);

// Throw UserError, which begins with `where`: the first for text with a NUL, the second also for
// text that is not UTF-8.
void require_no_nul(std::string_view text, const std::string& where);
void require_text(std::string_view text, const std::string& where);

// Returns ".csv" for "a.CSV" and "a.csv.gz".
std::string data_suffix(const std::filesystem::path& path);
bool names_json(std::string_view suffix);  // .jsonl, .ndjson or .json

}  // namespace bipo
