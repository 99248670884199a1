// Turns the rows of CSV and JSON Lines files into preference pairs, and refuses rows that are none.
#include "datasets/rows/preference_pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/csv_reader.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/text/row_collector.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;
using PairCollector = RowCollector<PreferencePair>;

void require_pair_text(const std::string& text, const std::string& where, std::string_view what) {
  if (is_blank(text)) {
    throw UserError(fmt::format("{}: {} is empty; every pair needs text there", where, what));
  }
}

// `fields` are question, matching and not_matching.
PreferencePair pair_from_csv(const std::vector<std::string>& fields, const std::string& where) {
  require_pair_text(fields[1], where, "matching");
  require_pair_text(fields[2], where, "not_matching");
  PreferencePair pair;
  pair.prompt = {{"user", fields[0]}};
  pair.chosen = {{"assistant", fields[1]}};
  pair.rejected = {{"assistant", fields[2]}};
  pair.where = where;
  return pair;
}

void read_csv(std::string_view text, const std::string& file, PairCollector collector) {
  CsvTable table(text, file, {"question", "matching", "not_matching"});
  while (table.next()) {
    collector.add([&] { return pair_from_csv(table.fields(), table.where()); });
  }
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

std::vector<Message> answer_from_json(const Json& row, const std::string& key,
                                      const std::string& where) {
  const Json& value = member(row, key, where);
  if (value.is_string()) {
    return {{"assistant", value.get<std::string>()}};
  }
  auto messages = messages_from_json(value, key, where);
  if (messages.size() != 1 || messages[0].role != "assistant") {
    throw UserError(fmt::format(
        "{}: '{}' must hold exactly one assistant message, but holds {} message(s) of which the "
        "first is from '{}'",
        where, key, messages.size(), messages[0].role));
  }
  return messages;
}

// Handles TRL's form without a prompt: the common first turns of both conversations are the prompt,
// the last turn of each is its answer.
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
  pair.chosen = answer_from_json(row, "chosen" + suffix, where);
  pair.rejected = answer_from_json(row, "rejected" + suffix, where);
  require_user_turn_last(pair.prompt, "prompt" + suffix, where);
  require_no_nul(pair.chosen[0].content, where);
  require_no_nul(pair.rejected[0].content, where);
  require_pair_text(pair.chosen[0].content, where, "chosen" + suffix);
  require_pair_text(pair.rejected[0].content, where, "rejected" + suffix);
  return pair;
}

PreferencePair pair_from_json(std::string_view line, const std::string& where) {
  const Json row = parse_json_line(line, where);
  if (row.contains("prompt_arr") || row.contains("chosen_arr")) {
    return pair_from_members(row, "_arr", where);
  }
  return pair_from_members(row.contains("prompt") ? row : with_explicit_prompt(row, where), "",
                           where);
}

void read_json_lines(std::string_view text, const std::string& file, PairCollector collector) {
  for_each_line(text, file, [&](std::string_view line, const std::string& where) {
    collector.add([&] { return pair_from_json(line, where); });
  });
}

}  // namespace

PairFile read_preference_pairs(const std::filesystem::path& path, BadRows bad_rows) {
  const std::string name = path.string();
  const std::string text = read_data_text(path);
  PairFile file;
  const PairCollector collector(bad_rows, file.pairs, file.skipped);
  const std::string extension = lower_extension(path);
  if (extension == ".csv") {
    read_csv(text, name, collector);
  } else if (names_json_lines(extension)) {
    read_json_lines(text, name, collector);
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
