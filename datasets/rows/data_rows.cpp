#include "datasets/rows/data_rows.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <regex>
#include <set>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "datasets/arrow/arrow_rows.hpp"
#include "datasets/text/csv_reader.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using DataPath = std::filesystem::path;

constexpr std::string_view kArrayAdvice = "every element of the array must be one whole object";
constexpr std::string_view kReadSuffixes =
    ".csv, .tsv, .jsonl, .ndjson, .json (each also as .gz), .parquet or .arrow; prompts also .txt";

void read_table_of_text(std::string_view text, const std::string& file, char separator,
                        const DataRowVisitor& visitor) {
  CsvReader reader(text, file, separator);
  const CsvRow header = *reader.next();
  const std::string header_place = fmt::format("{}:{}", file, header.line);
  require_csv_row(header, header.fields.size(), "the header", header_place);
  visitor.columns(header.fields, header_place);
  while (const auto row = reader.next()) {
    const std::string where = fmt::format("{}:{}", file, row->line);
    visitor.row(
        [&] {
          require_csv_row(*row, header.fields.size(), "the header", where);
          auto object = nlohmann::ordered_json::object();
          for (std::size_t i = 0; i < header.fields.size(); ++i) {
            object.emplace(header.fields[i], row->fields[i]);
          }
          return object;
        },
        where);
  }
}

// A file of one pretty-printed object is no JSON Lines; its member is named that may hold the rows.
void refuse_single_object(std::string_view text, const std::string& file) {
  const std::string_view first = text.substr(0, std::min(text.find('\n'), text.size()));
  if (nlohmann::json::accept(first) || is_nested_too_deeply(text) ||
      !nlohmann::json::accept(text)) {
    return;
  }
  const auto object = nlohmann::ordered_json::parse(text);
  std::vector<std::string> arrays;
  for (const auto& [name, value] : object.items()) {
    if (value.is_array()) {
      arrays.push_back(name);
    }
  }
  throw UserError(fmt::format(
      "{}: holds one JSON object; write its rows as one array, or as one object per line{}", file,
      arrays.empty() ? std::string()
                     : fmt::format(" (they may be its member '{}')", fmt::join(arrays, "', '"))));
}

void read_json(std::string_view text, const std::string& file, const DataRowVisitor& visitor) {
  const auto visit = [&](std::string_view row, const std::string& where, std::string_view advice) {
    visitor.row([&] { return parse_json_row(row, where, advice); }, where);
  };
  const bool is_array = text[text.find_first_not_of(kBlanks)] == '[';
  // Lines that are arrays themselves are JSON Lines, with rows that are none.
  const std::size_t first_end = std::min(text.find('\n'), text.size());
  const std::size_t next = text.find_first_not_of(kBlanks, first_end);
  const bool are_lines = next != std::string_view::npos && text[next] == '[' &&
                         nlohmann::json::accept(text.substr(0, first_end));
  if (is_array && !are_lines) {
    for_each_element(text, file, [&](std::string_view element, const std::string& where) {
      visit(element, where, kArrayAdvice);
    });
    return;
  }
  refuse_single_object(text, file);
  for_each_line(text, file, [&](std::string_view line, const std::string& where) {
    visit(line, where, kLineAdvice);
  });
}

void read_data_file(const DataPath& path, const DataRowVisitor& visitor) {
  const std::string suffix = data_suffix(path);
  if (suffix == ".parquet" || suffix == ".arrow") {
    for_each_arrow_row(path, visitor.columns, visitor.row);
    return;
  }
  const std::string text = read_data_text(path);
  if (suffix == ".csv" || suffix == ".tsv") {
    read_table_of_text(text, path.string(), suffix == ".csv" ? ',' : '\t', visitor);
  } else if (names_json(suffix)) {
    read_json(text, path.string(), visitor);
  } else {
    throw UserError(fmt::format("{}: the suffix '{}' says not how to read the file; use {}",
                                path.string(), suffix, kReadSuffixes));
  }
}

// "train-00000-of-00002.parquet" is part 0 of 2 of "train" + ".parquet".
struct DataPart {
  std::string name;
  std::string suffix;
  std::size_t number = 0;
  std::size_t count = 0;
};

std::optional<DataPart> part_of(const DataPath& path) {
  static const std::regex pattern(R"((.+)-(\d{5})-of-(\d{5})((\.\w+)+))");
  const std::string name = path.filename().string();
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) {
    return std::nullopt;
  }
  return DataPart{match[1], match[4], std::stoul(match[2]), std::stoul(match[3])};
}

std::vector<DataPath> entries_of(const DataPath& directory) {
  std::vector<DataPath> entries;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    entries.push_back(entry.path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

// Returns the parts of a name without numbers, in their order; empty if there are none.
std::vector<DataPath> parts_named(const DataPath& path) {
  std::vector<DataPath> parts;
  std::string suffix;
  std::size_t count = 0;
  for (const DataPath& entry :
       entries_of(path.has_parent_path() ? path.parent_path() : DataPath("."))) {
    const std::optional<DataPart> part = part_of(entry);
    if (part && part->name == path.filename()) {
      if (!parts.empty() && (part->suffix != suffix || part->count != count)) {
        throw UserError(
            fmt::format("{}: files of several sets of parts have this name ({} and {}); "
                        "move one set away",
                        path.string(), parts.front().string(), entry.string()));
      }
      suffix = part->suffix;
      count = part->count;
      parts.push_back(entry);
    }
  }
  if (!parts.empty() && parts.size() != count) {
    throw UserError(fmt::format("{}: {} of the {} parts are there; get the others", path.string(),
                                parts.size(), count));
  }
  return parts;
}

// Returns the files of a directory that datasets' save_to_disk wrote; empty if it is none.
std::vector<DataPath> saved_dataset(const DataPath& directory) {
  if (std::filesystem::exists(directory / "dataset_dict.json")) {
    const auto splits = read_json_file(directory / "dataset_dict.json");
    throw UserError(fmt::format("{}: holds several splits ({}); name one of them, as in {}",
                                directory.string(), splits.value("splits", nlohmann::json()).dump(),
                                (directory / "train").string()));
  }
  if (!std::filesystem::exists(directory / "state.json")) {
    return {};
  }
  std::vector<DataPath> files;
  read_json_file(directory / "state.json", [&](const JsonNode& state) {
    for (const JsonNode& file : state.require("_data_files").elements()) {
      files.push_back(directory / DataPath(file.require("filename").as_string()).filename());
    }
    return true;
  });
  return files;
}

[[noreturn]] void refuse_directory(const DataPath& directory) {
  std::set<std::string> names;
  std::vector<DataPath> entries = entries_of(directory);
  for (const DataPath& inner : entries_of(directory / "data")) {
    entries.push_back(inner);
  }
  for (const DataPath& entry : entries) {
    const std::string suffix = data_suffix(entry);
    const std::optional<DataPart> part = part_of(entry);
    if (part && part->count > 1) {
      names.insert((entry.parent_path() / part->name).string());
    } else if (suffix == ".csv" || suffix == ".tsv" || suffix == ".jsonl" || suffix == ".ndjson" ||
               suffix == ".parquet" || suffix == ".arrow") {
      names.insert(entry.string());
    }
  }
  throw UserError(fmt::format(
      "{}: is a directory; name {}", directory.string(),
      names.empty() ? std::string("a file of data in it")
                    : fmt::format("one of the data files in it: {}", fmt::join(names, ", "))));
}

std::vector<DataPath> files_of(const DataPath& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    const DataPath directory = path.has_filename() ? path : path.parent_path();
    std::vector<DataPath> files = saved_dataset(directory);
    if (files.empty()) {
      refuse_directory(directory);
    }
    return files;
  }
  if (!std::filesystem::exists(path, error)) {
    std::vector<DataPath> parts = parts_named(path);
    if (!parts.empty()) {
      return parts;
    }
  }
  return {path};
}

}  // namespace

void for_each_data_row(const std::filesystem::path& path, const DataRowVisitor& visitor) {
  for (const DataPath& file : files_of(path)) {
    read_data_file(file, visitor);
  }
}

}  // namespace bipo
