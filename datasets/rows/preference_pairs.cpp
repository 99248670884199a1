// Turns the rows of data files into preference pairs, and says what was understood of them.
#include "datasets/rows/preference_pairs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"
#include "datasets/rows/data_rows.hpp"
#include "datasets/rows/row_forms.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

// Returns the row with the user's names for its columns.
nlohmann::ordered_json with_names(nlohmann::ordered_json row,
                                  const std::vector<ColumnName>& columns,
                                  const std::string& where) {
  if (columns.empty()) {
    return row;
  }
  auto named = nlohmann::ordered_json::object();
  for (const auto& [name, column] : columns) {
    if (!column.empty() && !row.contains(column)) {
      std::vector<std::string> there;
      for (const auto& [key, value] : row.items()) {
        there.push_back(key);
      }
      throw UserError(fmt::format("{}: --columns {}={}: there is no column '{}', only '{}'", where,
                                  name, column, column, fmt::join(there, "', '")));
    }
    if (!column.empty()) {
      named[name] = row[column];
    }
  }
  for (auto& [key, value] : row.items()) {
    const bool is_taken =
        std::any_of(columns.begin(), columns.end(), [&key = key](const ColumnName& mapped) {
          return mapped.name == key || mapped.column == key;
        });
    if (!is_taken) {
      named[key] = std::move(value);
    }
  }
  return named;
}

// The names of a table's columns, after renaming.
std::vector<std::string> with_names(const std::vector<std::string>& table,
                                    const std::vector<ColumnName>& columns,
                                    const std::string& where) {
  if (columns.empty()) {
    return table;
  }
  auto row = nlohmann::ordered_json::object();
  for (const std::string& column : table) {
    row[column] = "";
  }
  std::vector<std::string> names;
  const nlohmann::ordered_json named = with_names(std::move(row), columns, where);
  for (const auto& [name, value] : named.items()) {
    names.push_back(name);
  }
  return names;
}

std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 48;
  const bool is_long = text.size() > kLongest;
  std::string start(text.substr(0, kLongest));
  start.resize(well_formed_length(start));
  std::string quoted = nlohmann::json(start).dump();
  return is_long ? quoted.insert(quoted.size() - 1, "...") : quoted;
}

std::string shown(const std::vector<Message>& turns) {
  return turns.size() == 1 ? shown(turns.front().content)
                           : fmt::format("{} (and {} turns after it)", shown(turns.front().content),
                                         turns.size() - 1);
}

// What a file was understood as, row by row.
class Understanding {
 public:
  ColumnUse& columns() { return columns_; }
  void add(const RowForm& form) { ++forms_[form_name(form)]; }

  std::string text(const std::string& file, std::size_t read, const PairFile& pairs,
                   const RowOptions& options) const {
    const PreferencePair& first = pairs.pairs.front();
    return fmt::format(
        "{}: {}{}; first pair: {}{} -> {} rather than {}{}", file, counted_forms(read),
        taken(read, pairs.pairs.size(), options), shown(first.prompt.back().content),
        first.prompt.size() > 1 ? fmt::format(" (after {} turns)", first.prompt.size() - 1) : "",
        shown(first.chosen), shown(first.rejected), roles_of_columns());
  }

 private:
  std::string counted_forms(std::size_t pairs) const {
    std::vector<std::string> forms;
    std::size_t rows = 0;
    for (const auto& [name, count] : forms_) {
      forms.push_back(
          fmt::format("{} {} of the form {}", count, count == 1 ? "row" : "rows", name));
      rows += count;
    }
    return fmt::format("{}{}", fmt::join(forms, ", "),
                       rows == pairs ? std::string() : fmt::format(", {} pairs", pairs));
  }

  static std::string taken(std::size_t read, std::size_t kept, const RowOptions& options) {
    const std::string how =
        options.seed ? fmt::format("shuffled with the seed {}", *options.seed) : "the first";
    if (kept < read) {
      return fmt::format("; {} of the {} pairs taken, {}", kept, read, how);
    }
    return options.seed ? "; " + how : std::string();
  }

  std::string roles_of_columns() const {
    constexpr std::size_t kShown = 8;
    std::string roles = columns_.is_used("system") ? "; 'system' is the system turn" : "";
    for (const char* column : {"tools", "chat_template_kwargs"}) {
      if (columns_.is_used(column)) {
        roles += fmt::format("; '{}' goes to the chat template", column);
      }
    }
    std::vector<std::string> unused = columns_.unused();
    if (unused.empty()) {
      return roles;
    }
    const std::size_t more = unused.size() - std::min(unused.size(), kShown);
    unused.resize(unused.size() - more);
    return fmt::format("{}; columns not used: '{}'{}", roles, fmt::join(unused, "', '"),
                       more == 0 ? std::string() : fmt::format(" and {} more", more));
  }

  std::map<std::string, std::size_t> forms_;
  ColumnUse columns_;
};

// Shuffles as Fisher and Yates do, with Philox as the source; its fourth counter keeps the numbers
// apart from those of batch plans.
void shuffle(std::vector<PreferencePair>& pairs, std::uint64_t seed) {
  constexpr std::uint32_t kRowShuffle = 0x526F7773;
  for (std::size_t left = pairs.size(); left > 1; --left) {
    const auto words = philox4x32(
        {static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(left >> 32U), 0, kRowShuffle},
        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)});
    const std::uint64_t bits = (std::uint64_t{words[1]} << 32U) | words[0];
    std::swap(pairs[left - 1], pairs[bits % left]);
  }
}

void take_sample(std::vector<PreferencePair>& pairs, const RowOptions& options) {
  if (options.seed) {
    shuffle(pairs, *options.seed);
  }
  if (options.max_pairs > 0 && static_cast<std::uint64_t>(options.max_pairs) < pairs.size()) {
    pairs.resize(static_cast<std::size_t>(options.max_pairs));
  }
}

}  // namespace

PairFile read_preference_pairs(const std::filesystem::path& path, const RowOptions& options) {
  PairFile file;
  Understanding understanding;
  RowCollector<PreferencePair> collector(options.bad_rows, file.pairs, file.skipped);
  DataRowVisitor visitor;
  visitor.columns = [&](const std::vector<std::string>& columns, const std::string& where) {
    require_columns_of_form(with_names(columns, options.columns, where), where);
  };
  visitor.row = [&](const MakeRow& make, const std::string& where) {
    collector.add_all([&] {
      const nlohmann::ordered_json row = with_names(make(), options.columns, where);
      const RowForm& form =
          form_of_row(row, !options.columns.empty(), options.keeps_transcripts, where);
      understanding.columns().see(row);
      std::vector<PreferencePair> pairs =
          pairs_of_row(form, RowReader(row, where, understanding.columns()), options.answer_pairs);
      understanding.add(form);
      return pairs;
    });
  };
  for_each_data_row(path, visitor);
  if (file.pairs.empty()) {
    throw UserError(fmt::format(
        "{}: holds no usable pair{}", path.string(),
        file.skipped.empty() ? std::string() : "; the first bad row is " + file.skipped[0]));
  }
  const std::size_t read = file.pairs.size();
  take_sample(file.pairs, options);
  file.understood = understanding.text(path.string(), read, file, options);
  return file;
}

PairFile read_preference_pairs(const std::filesystem::path& path, BadRows bad_rows) {
  RowOptions options;
  options.bad_rows = bad_rows;
  return read_preference_pairs(path, options);
}

}  // namespace bipo
