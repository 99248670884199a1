// Turns rows of CSV and JSON files into multiple-choice items, and refuses rows that are none.
#include "datasets/rows/choice_items.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/data_rows.hpp"
#include "datasets/text/csv_reader.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;
using ItemCollector = RowCollector<ChoiceItem>;
namespace fs = std::filesystem;

constexpr std::size_t kShots = 5;
constexpr std::string_view kTestSuffix = "_test.csv";
constexpr std::string_view kDevSuffix = "_dev.csv";

void require_item_text(const std::string& text, const std::string& where, std::string_view what) {
  require_no_nul(text, where);
  if (is_blank(text)) {
    throw UserError(fmt::format("{}: {} is empty; every item needs text there", where, what));
  }
}

void require_items(const ChoiceSet& set, const std::string& file) {
  if (set.items.empty()) {
    throw UserError(fmt::format(
        "{}: holds no usable item{}", file,
        set.skipped.empty() ? std::string() : "; the first bad row is " + set.skipped[0]));
  }
}

// `fields` are question, A, B and matching.
ChoiceItem ab_item(const std::vector<std::string>& fields, const std::string& where) {
  const std::string& matching = fields[3];
  const bool first = matching == "A" || matching == "(A)";
  if (!first && matching != "B" && matching != "(B)") {
    throw UserError(fmt::format("{}: matching is '{}'; it must be A or B", where, matching));
  }
  require_item_text(fields[0], where, "question");
  require_item_text(fields[1], where, "A");
  require_item_text(fields[2], where, "B");
  return {fields[0], {{fields[1], first}, {fields[2], !first}}, "", where};
}

constexpr std::array<std::string_view, 4> kAbColumns = {"question", "A", "B", "matching"};

// Whether a file with this suffix is not read as CSV, nor by its first character.
bool is_other_container(std::string_view suffix) {
  return names_json(suffix) || suffix == ".tsv" || suffix == ".parquet" || suffix == ".arrow";
}

ChoiceItem ab_item_of_row(const Json& row, const std::string& where) {
  std::vector<std::string> fields;
  for (const std::string_view column : kAbColumns) {
    const auto found = row.find(std::string(column));
    if (found == row.end() || !found->is_string()) {
      throw UserError(fmt::format(
          "{}: '{}' must be a string; an item has question, A, B and matching", where, column));
    }
    fields.push_back(found->get<std::string>());
  }
  return ab_item(fields, where);
}

void read_rows_of_items(const fs::path& path, ItemCollector& collector,
                        ChoiceItem (*read)(const Json& row, const std::string& where)) {
  DataRowVisitor visitor;
  visitor.columns = [](const std::vector<std::string>&, const std::string&) {};
  visitor.row = [&](const MakeRow& make, const std::string& where) {
    collector.add([&] { return read(make(), where); });
  };
  for_each_data_row(path, visitor);
}

// A choice's text and whether it is right.
using Label = std::pair<std::string, bool>;

bool read_label(const Json& value, std::string_view key, const std::string& where) {
  if (value.is_boolean()) {
    return value.get<bool>();
  }
  if (value.is_number_integer() && (value == 0 || value == 1)) {
    return value == 1;
  }
  throw UserError(
      fmt::format("{}: '{}' holds the label {}; it must be 0 or 1", where, key, value.dump()));
}

const Json& require_array(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) {
    throw UserError(
        fmt::format("{}: the key '{}' is missing; an item has question with choices and labels, or "
                    "with mc1_targets and mc2_targets",
                    where, key));
  }
  if (!found->is_array()) {
    throw UserError(
        fmt::format("{}: '{}' must be an array, not {}", where, key, found->type_name()));
  }
  return *found;
}

std::vector<Label> labels_of_lists(const Json& object, const std::string& where) {
  const Json& choices = require_array(object, "choices", where);
  const Json& labels = require_array(object, "labels", where);
  if (choices.size() != labels.size()) {
    throw UserError(fmt::format("{}: {} choices but {} labels; every choice needs one", where,
                                choices.size(), labels.size()));
  }
  std::vector<Label> result;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].is_string()) {
      throw UserError(fmt::format("{}: choice {} is {}; it must be a string", where, i + 1,
                                  choices[i].type_name()));
    }
    result.emplace_back(choices[i].get<std::string>(), read_label(labels[i], "labels", where));
  }
  return result;
}

// Reads TruthfulQA's {text: 0 or 1}, or lists as in its copies on the Hugging Face hub.
std::vector<Label> labels_of_targets(const Json& row, const char* key, const std::string& where) {
  const auto targets = row.find(key);
  if (targets == row.end() || !targets->is_object()) {
    throw UserError(fmt::format(
        "{}: '{}' must be an object of choices with their labels; TruthfulQA's items have both "
        "mc1_targets and mc2_targets",
        where, key));
  }
  if (targets->contains("choices") && (*targets)["choices"].is_array()) {
    return labels_of_lists(*targets, where);
  }
  std::vector<Label> result;
  for (const auto& [text, label] : targets->items()) {
    result.emplace_back(text, read_label(label, key, where));
  }
  return result;
}

void require_both_labels(const std::vector<Label>& labels, std::string_view key,
                         const std::string& where) {
  const auto right =
      std::count_if(labels.begin(), labels.end(), [](const Label& label) { return label.second; });
  if (right == 0 || right == static_cast<std::ptrdiff_t>(labels.size())) {
    throw UserError(
        fmt::format("{}: {} of the {} labels of '{}' are 1; an item needs at least one right and "
                    "one wrong choice",
                    where, right, labels.size(), key));
  }
}

// Adds the labelled texts to `choices`, equal texts once, and sets their `member`.
void add_targets(std::vector<Choice>& choices, const std::vector<Label>& labels,
                 bool Choice::*member, const std::string& where) {
  for (const auto& [text, right] : labels) {
    require_item_text(text, where, "a choice");
    auto found = std::find_if(choices.begin(), choices.end(),
                              [&](const Choice& choice) { return choice.text == text; });
    if (found == choices.end()) {
      choices.push_back({text, right, false, false});
      found = choices.end() - 1;
    } else if (found->right != right) {
      throw UserError(fmt::format("{}: the choice '{}' is right in one place and wrong in another",
                                  where, text));
    }
    (*found).*member = true;
  }
}

ChoiceItem mc_item(const Json& row, const std::string& where) {
  const auto question = row.find("question");
  if (question == row.end() || !question->is_string()) {
    throw UserError(fmt::format("{}: 'question' must be a string", where));
  }
  ChoiceItem item;
  item.question = question->get<std::string>();
  item.where = where;
  require_item_text(item.question, where, "question");
  const bool truthful_qa = row.contains("mc1_targets") || row.contains("mc2_targets");
  const auto add = [&](const std::vector<Label>& labels, const char* key, bool Choice::*member) {
    require_both_labels(labels, key, where);
    add_targets(item.choices, labels, member, where);
  };
  if (truthful_qa) {
    add(labels_of_targets(row, "mc1_targets", where), "mc1_targets", &Choice::in_mc1);
    add(labels_of_targets(row, "mc2_targets", where), "mc2_targets", &Choice::in_mc2);
  } else {
    const std::vector<Label> labels = labels_of_lists(row, where);
    add(labels, "labels", &Choice::in_mc1);
    add(labels, "labels", &Choice::in_mc2);
  }
  return item;
}

void read_mc_array(const std::string& text, const std::string& file, ItemCollector collector) {
  require_text(text, file);
  const Json array =
      parse_untrusted_json(text, file, "write one object per line, or one array of them");
  for (std::size_t i = 0; i < array.size(); ++i) {
    const std::string where = fmt::format("{}: item {}", file, i + 1);
    collector.add([&] {
      if (!array[i].is_object()) {
        throw UserError(fmt::format("{}: must be an object, not {}", where, array[i].type_name()));
      }
      return mc_item(array[i], where);
    });
  }
}

ChoiceItem mmlu_item(const CsvRow& row, const std::string& subject, const std::string& where) {
  static constexpr std::array<const char*, 6> kFields = {"question", "A", "B", "C", "D", "answer"};
  require_csv_row(row, kFields.size(), "an item (question, A, B, C, D, answer)", where);
  for (std::size_t i = 0; i < kFields.size(); ++i) {
    require_item_text(row.fields[i], where, kFields[i]);
  }
  const std::string& answer = row.fields.back();
  if (answer.size() != 1 || answer[0] < 'A' || answer[0] > 'D') {
    throw UserError(fmt::format("{}: the answer is '{}'; it must be A, B, C or D", where, answer));
  }
  ChoiceItem item{row.fields[0], {}, subject, where};
  for (std::size_t i = 0; i < 4; ++i) {
    item.choices.push_back({row.fields[i + 1], static_cast<std::size_t>(answer[0] - 'A') == i});
  }
  return item;
}

void read_mmlu_file(const fs::path& path, const std::string& subject, ItemCollector collector) {
  const std::string text = read_data_text(path);
  CsvReader reader(text, path.string());
  while (const auto row = reader.next()) {
    collector.add(
        [&] { return mmlu_item(*row, subject, fmt::format("{}:{}", path.string(), row->line)); });
  }
}

// The worked examples are part of every prompt, so none of them may be skipped.
std::vector<ChoiceItem> read_shots(const fs::path& test_file, const std::string& subject) {
  const std::string name = subject + std::string(kDevSuffix);
  const fs::path folder = test_file.parent_path();
  fs::path dev = folder / name;
  if (const fs::path other = folder / ".." / "dev" / name;
      !fs::exists(dev) && folder.filename() == "test" && fs::exists(other)) {
    dev = other.lexically_normal();
  }
  if (!fs::exists(dev)) {
    throw UserError(fmt::format(
        "{}: {} is missing; put this file of five worked examples beside it, or into a folder dev "
        "beside the folder test",
        test_file.string(), name));
  }
  std::vector<ChoiceItem> shots;
  std::vector<std::string> skipped;
  read_mmlu_file(dev, subject, ItemCollector(BadRows::kRefuse, shots, skipped));
  if (shots.size() < kShots) {
    throw UserError(
        fmt::format("{}: holds {} examples; five are needed", dev.string(), shots.size()));
  }
  shots.resize(kShots);
  return shots;
}

// Returns the subject of <subject>_test.csv; "" for other names.
std::string subject_of(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.ends_with(kTestSuffix) ? name.substr(0, name.size() - kTestSuffix.size()) : "";
}

// Returns the files with a subject, sorted by name.
std::vector<fs::path> test_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (!subject_of(entry.path()).empty()) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string set_name(const fs::path& path) {
  const fs::path plain = path.lexically_normal();
  return plain.has_filename() ? plain.stem().string() : plain.parent_path().filename().string();
}

}  // namespace

std::string_view choice_kind_name(ChoiceKind kind) {
  switch (kind) {
    case ChoiceKind::kAb:
      return "ab";
    case ChoiceKind::kMc:
      return "mc";
    case ChoiceKind::kMmlu:
      return "mmlu";
  }
  throw BugError(fmt::format("kind of choice {} is not known", static_cast<int>(kind)));
}

ChoiceSet read_ab_items(const fs::path& path, BadRows bad_rows) {
  const std::string file = path.string();
  ChoiceSet set{set_name(path), ChoiceKind::kAb, {}, {}, {}};
  ItemCollector collector(bad_rows, set.items, set.skipped);
  if (is_other_container(data_suffix(path))) {
    read_rows_of_items(path, collector, ab_item_of_row);
  } else {
    const std::string text = read_data_text(path);
    CsvTable table(text, file, {kAbColumns.begin(), kAbColumns.end()});
    while (table.next()) {
      collector.add([&] { return ab_item(table.fields(), table.where()); });
    }
  }
  require_items(set, file);
  return set;
}

ChoiceSet read_mc_items(const fs::path& path, BadRows bad_rows) {
  const std::string file = path.string();
  ChoiceSet set{set_name(path), ChoiceKind::kMc, {}, {}, {}};
  ItemCollector collector(bad_rows, set.items, set.skipped);
  const std::string suffix = data_suffix(path);
  if (is_other_container(suffix) && !names_json(suffix)) {
    read_rows_of_items(path, collector, mc_item);
    require_items(set, file);
    return set;
  }
  const std::string text = read_data_text(path);
  if (text[text.find_first_not_of(kBlanks)] == '[') {
    read_mc_array(text, file, collector);
  } else {
    for_each_line(text, file, [&](std::string_view line, const std::string& where) {
      collector.add([&] { return mc_item(parse_json_line(line, where), where); });
    });
  }
  require_items(set, file);
  return set;
}

ChoiceSet read_mmlu_items(const fs::path& path, BadRows bad_rows) {
  ChoiceSet set{set_name(path), ChoiceKind::kMmlu, {}, {}, {}};
  std::vector<fs::path> files = {path};
  if (fs::is_directory(path)) {
    files = test_files(fs::is_directory(path / "test") ? path / "test" : path);
    if (files.empty()) {
      throw UserError(
          fmt::format("{}: holds no file <subject>_test.csv; name a directory of MMLU's test files",
                      path.string()));
    }
  }
  ItemCollector collector(bad_rows, set.items, set.skipped);
  for (const fs::path& file : files) {
    const std::string subject = subject_of(file);
    if (subject.empty()) {
      throw UserError(fmt::format(
          "{}: MMLU's files are named <subject>_test.csv; rename it, or name their directory",
          file.string()));
    }
    const std::size_t before = set.items.size();
    read_mmlu_file(file, subject, collector);
    if (set.items.size() > before) {
      set.shots[subject] = read_shots(file, subject);
    }
  }
  require_items(set, path.string());
  return set;
}

}  // namespace bipo
