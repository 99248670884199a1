// Turns the rows of CSV and JSON Lines files into preference pairs, and refuses rows that are none.
#include "datasets/preference_pairs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "collectives/errors.hpp"
#include "collectives/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

constexpr std::string_view kBlanks = " \t\r\n\v\f";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kBlanks) == std::string_view::npos;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw UserError(fmt::format("{}: no such data file", path.string()));
  }
  if (std::filesystem::is_directory(path, error)) {
    throw UserError(
        fmt::format("{}: is a directory; name a .csv or .jsonl file in it", path.string()));
  }
  std::ifstream stream(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) {
    throw UserError(fmt::format("{}: cannot be read; check the file's permissions", path.string()));
  }
  return bytes;
}

// Length of the UTF-8 sequence that begins `text`, 0 where it is not one (Unicode 15, table 3-7).
std::size_t utf8_sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t index) { return static_cast<unsigned char>(text[index]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    return 1;
  }
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) {
    return 0;
  }
  for (std::size_t index = 1; index < length; ++index) {
    if ((byte(index) & 0xC0) != 0x80) {
      return 0;
    }
  }
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
  const bool beyond_unicode = lead == 0xF4 && byte(1) >= 0x90;
  return overlong || surrogate || beyond_unicode ? 0 : length;
}

void require_no_nul(std::string_view text, const std::string& where) {
  if (text.find('\0') != std::string_view::npos) {
    throw UserError(fmt::format("{}: the row holds a NUL character; remove it", where));
  }
}

void require_text(std::string_view text, const std::string& where) {
  require_no_nul(text, where);
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t length = utf8_sequence_length(text.substr(position));
    if (length == 0) {
      throw UserError(
          fmt::format("{}: byte {:#04x} is not valid UTF-8; save the file with UTF-8 encoding",
                      where, static_cast<unsigned char>(text[position])));
    }
    position += length;
  }
}

void require_content(const std::string& text, const std::string& where, std::string_view what) {
  if (is_blank(text)) {
    throw UserError(fmt::format("{}: {} is empty; every pair needs text there", where, what));
  }
}

// Converts row after row, and keeps count of what was left out.
class PairCollector {
 public:
  PairCollector(BadRows bad_rows, PairFile& file) : bad_rows_(bad_rows), file_(file) {}

  // Appends what `make_pair` returns, or its complaint where bad rows are to be skipped.
  template <typename MakePair>
  void add(const MakePair& make_pair) {
    try {
      file_.pairs.push_back(make_pair());
    } catch (const UserError& error) {
      if (bad_rows_ == BadRows::kRefuse) {
        throw;
      }
      file_.skipped.emplace_back(error.what());
    }
  }

 private:
  BadRows bad_rows_;
  PairFile& file_;
};

struct CsvRow {
  std::size_t line = 0;  // 1-based, where the row begins
  std::vector<std::string> fields;
  std::string defect;  // why the row cannot be split into fields; empty where it can
};

// Splits RFC 4180 text into rows.  A quoted field may hold commas, line breaks and doubled quotes.
class CsvReader {
 public:
  CsvReader(std::string_view text, std::string file)
      : text_(text), file_(std::move(file)), content_end_(text.find_last_not_of(kBlanks) + 1) {}

  // Nothing once only blank lines are left.
  std::optional<CsvRow> next() {
    if (position_ >= content_end_) {
      return std::nullopt;
    }
    CsvRow row;
    row.line = line_;
    do {
      row.fields.push_back(at('"') ? quoted_field(row) : plain_field());
    } while (take(','));
    if (!take_line_end() && position_ < text_.size()) {
      row.defect = fmt::format(
          "text follows the closing quote of field {}; double every quote inside a quoted field",
          row.fields.size());
      skip_to_next_line();
    }
    return row;
  }

 private:
  bool at(char expected) const { return position_ < text_.size() && text_[position_] == expected; }

  bool take(char expected) {
    if (!at(expected)) {
      return false;
    }
    ++position_;
    return true;
  }

  bool at_line_end() const { return at('\n') || text_.substr(position_, 2) == "\r\n"; }

  bool take_line_end() {
    if (!at_line_end()) {
      return false;
    }
    take('\r');
    take('\n');
    ++line_;
    return true;
  }

  std::string plain_field() {
    const std::size_t begin = position_;
    while (position_ < text_.size() && !at(',') && !at_line_end()) {
      ++position_;
    }
    return std::string(text_.substr(begin, position_ - begin));
  }

  // An open quote swallows the rest of the file, so it is never a row that could be skipped.
  std::string quoted_field(const CsvRow& row) {
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

  void skip_to_next_line() {
    while (position_ < text_.size() && !take_line_end()) {
      ++position_;
    }
  }

  std::string_view text_;
  std::string file_;
  std::size_t content_end_;  // what follows is blank
  std::size_t position_ = 0;
  std::size_t line_ = 1;
};

// Where the three columns stand, and how many there are in all.
struct CsvColumns {
  std::size_t question = 0;
  std::size_t matching = 0;
  std::size_t not_matching = 0;
  std::size_t count = 0;
};

CsvColumns find_columns(const CsvRow& header, const std::string& where) {
  if (!header.defect.empty()) {
    throw UserError(fmt::format("{}: {}", where, header.defect));
  }
  for (const std::string& field : header.fields) {
    require_text(field, where);
  }
  const auto find = [&](std::string_view name) {
    const auto& fields = header.fields;
    const auto found = std::find(fields.begin(), fields.end(), name);
    if (found == fields.end() || std::count(found, fields.end(), name) > 1) {
      throw UserError(fmt::format(
          "{}: the header must name the column '{}' once; it reads '{}', and the columns question, "
          "matching and not_matching are needed",
          where, name, fmt::join(fields, ",")));
    }
    return static_cast<std::size_t>(found - fields.begin());
  };
  return {find("question"), find("matching"), find("not_matching"), header.fields.size()};
}

PreferencePair pair_from_csv(const CsvRow& row, const CsvColumns& columns,
                             const std::string& where) {
  if (!row.defect.empty()) {
    throw UserError(fmt::format("{}: {}", where, row.defect));
  }
  if (row.fields.size() != columns.count) {
    throw UserError(
        fmt::format("{}: the row has {} fields where the header has {}; quote fields that hold "
                    "commas or line breaks",
                    where, row.fields.size(), columns.count));
  }
  for (const std::string& field : row.fields) {
    require_text(field, where);
  }
  PreferencePair pair;
  pair.prompt = {{"user", row.fields[columns.question]}};
  pair.chosen = row.fields[columns.matching];
  pair.rejected = row.fields[columns.not_matching];
  pair.where = where;
  require_content(pair.chosen, where, "matching");
  require_content(pair.rejected, where, "not_matching");
  return pair;
}

void read_csv(std::string_view text, const std::string& file, PairCollector collector) {
  CsvReader reader(text, file);
  const auto header = reader.next();
  const CsvColumns columns = find_columns(*header, fmt::format("{}:{}", file, header->line));
  while (const auto row = reader.next()) {
    collector.add(
        [&] { return pair_from_csv(*row, columns, fmt::format("{}:{}", file, row->line)); });
  }
}

Message message_from_json(const Json& value, std::string_view key, const std::string& where) {
  if (!value.is_object() || !value.contains("role") || !value.contains("content") ||
      !value["role"].is_string() || !value["content"].is_string()) {
    throw UserError(
        fmt::format("{}: every element of '{}' must be an object with the strings role and content",
                    where, key));
  }
  Message message{value["role"].get<std::string>(), value["content"].get<std::string>()};
  constexpr std::array<std::string_view, 3> kRoles = {"system", "user", "assistant"};
  if (std::find(kRoles.begin(), kRoles.end(), message.role) == kRoles.end()) {
    throw UserError(fmt::format("{}: '{}' has the role '{}'; use system, user or assistant", where,
                                key, message.role));
  }
  return message;
}

std::vector<Message> messages_from_json(const Json& value, std::string_view key,
                                        const std::string& where) {
  std::vector<Message> messages;
  for (const Json& element : value) {
    messages.push_back(message_from_json(element, key, where));
  }
  if (messages.empty()) {
    throw UserError(
        fmt::format("{}: '{}' is an empty array; it needs at least one message", where, key));
  }
  return messages;
}

UserError missing_key(std::string_view key, const std::string& where) {
  return UserError(fmt::format(
      "{}: the key '{}' is missing; a row has prompt, chosen and rejected, or prompt_arr, "
      "chosen_arr and rejected_arr",
      where, key));
}

const Json& member(const Json& row, const std::string& key, const std::string& where) {
  const auto found = row.find(key);
  if (found == row.end()) {
    throw missing_key(key, where);
  }
  if (!found->is_string() && !found->is_array()) {
    throw UserError(fmt::format("{}: '{}' must be a string or an array of messages, not {}", where,
                                key, found->type_name()));
  }
  return *found;
}

std::vector<Message> prompt_from_json(const Json& value, std::string_view key,
                                      const std::string& where) {
  if (value.is_string()) {
    return {{"user", value.get<std::string>()}};
  }
  return messages_from_json(value, key, where);
}

std::string answer_from_json(const Json& value, std::string_view key, const std::string& where) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  const auto messages = messages_from_json(value, key, where);
  if (messages.size() != 1 || messages[0].role != "assistant") {
    throw UserError(fmt::format(
        "{}: '{}' must hold exactly one assistant message, but holds {} message(s) of which the "
        "first is from '{}'",
        where, key, messages.size(), messages[0].role));
  }
  return messages[0].content;
}

// TRL's form without a prompt: the turns that both conversations begin with are the prompt, and the
// last turn of each is its answer.
Json with_explicit_prompt(const Json& row, const std::string& where) {
  const Json& chosen = member(row, "chosen", where);
  const Json& rejected = member(row, "rejected", where);
  if (!chosen.is_array() || !rejected.is_array()) {
    throw missing_key("prompt", where);
  }
  const std::size_t shorter = std::min(chosen.size(), rejected.size());
  const auto longest = static_cast<std::ptrdiff_t>(std::max<std::size_t>(shorter, 1) - 1);
  const auto split = std::mismatch(chosen.begin(), chosen.begin() + longest, rejected.begin());
  return Json{{"prompt", Json(Json::array_t(chosen.begin(), split.first))},
              {"chosen", Json(Json::array_t(split.first, chosen.end()))},
              {"rejected", Json(Json::array_t(split.second, rejected.end()))}};
}

PreferencePair pair_from_members(const Json& row, const std::string& suffix,
                                 const std::string& where) {
  PreferencePair pair;
  pair.where = where;
  pair.prompt = prompt_from_json(member(row, "prompt" + suffix, where), "prompt" + suffix, where);
  pair.chosen = answer_from_json(member(row, "chosen" + suffix, where), "chosen" + suffix, where);
  pair.rejected =
      answer_from_json(member(row, "rejected" + suffix, where), "rejected" + suffix, where);
  if (pair.prompt.back().role != "user") {
    throw UserError(fmt::format("{}: 'prompt{}' must end with a user turn, but ends with '{}'",
                                where, suffix, pair.prompt.back().role));
  }
  for (const Message& turn : pair.prompt) {
    require_no_nul(turn.content, where);
  }
  require_no_nul(pair.chosen, where);
  require_no_nul(pair.rejected, where);
  require_content(pair.chosen, where, "chosen" + suffix);
  require_content(pair.rejected, where, "rejected" + suffix);
  return pair;
}

PreferencePair pair_from_json(std::string_view line, const std::string& where) {
  require_text(line, where);
  const Json row = parse_untrusted_json(line, where, "JSON Lines has one whole object per line");
  if (!row.is_object()) {
    throw UserError(fmt::format(
        "{}: the line holds {} instead of an object; JSON Lines has one object per line", where,
        row.type_name()));
  }
  if (row.contains("prompt_arr") || row.contains("chosen_arr")) {
    return pair_from_members(row, "_arr", where);
  }
  return pair_from_members(row.contains("prompt") ? row : with_explicit_prompt(row, where), "",
                           where);
}

void read_json_lines(std::string_view text, const std::string& file, PairCollector collector) {
  std::size_t line_number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line_number;
    if (!is_blank(line)) {
      collector.add([&] { return pair_from_json(line, fmt::format("{}:{}", file, line_number)); });
    }
  }
}

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char character) {
    return character >= 'A' && character <= 'Z' ? static_cast<char>(character - 'A' + 'a')
                                                : character;
  });
  return extension;
}

}  // namespace

PairFile read_preference_pairs(const std::filesystem::path& path, BadRows bad_rows) {
  const std::string name = path.string();
  const std::string bytes = read_bytes(path);
  PairFile file;
  std::string_view text = bytes;
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  if (is_blank(text)) {
    throw UserError(fmt::format("{}: the data file is empty", name));
  }
  const std::string extension = lower_extension(path);
  if (extension == ".csv") {
    read_csv(text, name, PairCollector(bad_rows, file));
  } else if (extension == ".jsonl" || extension == ".ndjson" || extension == ".json") {
    read_json_lines(text, name, PairCollector(bad_rows, file));
  } else {
    throw UserError(fmt::format(
        "{}: the suffix '{}' says neither CSV nor JSON Lines; use .csv, .jsonl, .ndjson or .json",
        name, extension));
  }
  if (file.pairs.empty()) {
    throw UserError(fmt::format("{}: holds no usable pair{}", name,
                                file.skipped.empty()
                                    ? std::string(" below the header")
                                    : "; the first bad row is " + file.skipped[0]));
  }
  return file;
}

}  // namespace bipo
