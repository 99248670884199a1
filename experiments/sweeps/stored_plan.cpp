// A sweep's plan as the file plan.json in the sweep's directory.
#include "experiments/sweeps/stored_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "experiments/runs/setting_label.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using SortedJson = nlohmann::json;
using Json = nlohmann::ordered_json;

// Calls `visit(key, member)` for each value of a cell, in the order of the file.
template <typename Visit>
void for_each_value(const Visit& visit) {
  visit("model", &Cell::model);
  visit("data", &Cell::data);
  visit("layer", &Cell::layer);
  visit("seed", &Cell::seed);
  visit("lr", &Cell::lr);
  visit("beta", &Cell::beta);
  visit("sign", &Cell::sign);
  visit("batch_size", &Cell::batch_size);
  visit("epochs", &Cell::epochs);
}

// Does so for the values of later versions, which a plan holds where they are not a cell's usual
// ones.
template <typename Visit>
void for_each_later_value(const Visit& visit) {
  visit("objective", &Cell::objective);
  visit("label_smoothing", &Cell::label_smoothing);
  visit("simpo_gamma", &Cell::simpo_gamma);
  visit("reduction", &Cell::reduction);
  visit("steered_positions", &Cell::positions);
  for (const auto& [key, member] : kSettingAxes) {
    visit(key, member);
  }
}

Json cell_to_json(const Cell& cell) {
  const Cell usual;
  Json json;
  json["name"] = cell.name;
  for_each_value([&](const char* key, auto member) { json[key] = cell.*member; });
  for_each_later_value([&](const char* key, auto member) {
    if (cell.*member != usual.*member) {
      json[key] = cell.*member;
    }
  });
  return json;
}

Json pack_to_json(const Pack& pack) {
  Json members = Json::array();
  for (const Cell& cell : pack.members) {
    members.push_back(cell.name);
  }
  return {{"name", pack.name}, {"members", members}};
}

SortedJson parse_plan_to_compare(const std::string& text, const std::string& path) {
  const SortedJson parsed = SortedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  SortedJson plan = parsed.is_object() ? parsed : SortedJson::object();
  const SortedJson schema = plan.value("schema_version", SortedJson());
  const bool has_schema = schema.is_number_integer();
  if (has_schema && schema > kSweepPlanSchema) {
    throw UserError(
        fmt::format("{}: a newer bipo-dist wrote this plan (schema {}; this one knows {}); "
                    "continue the sweep with that version, or give another --out",
                    path, schema.dump(), kSweepPlanSchema));
  }
  const SortedJson vectors = plan.value("vectors_per_pass", SortedJson());
  if (!has_schema || schema != kSweepPlanSchema ||
      !plan.value("settings", SortedJson()).is_object() ||
      !plan.value("cells", SortedJson()).is_array() ||
      !(vectors.is_number_integer() || vectors == "auto")) {
    throw UserError(fmt::format(
        "{}: not the plan of a sweep, or damaged; restore it, or give another --out", path));
  }
  return plan;
}

std::string value_text(const SortedJson& settings, const std::string& name) {
  return settings.contains(name) ? settings[name].dump() : "absent";
}

std::vector<std::string> setting_differences(const SortedJson& before, const SortedJson& after) {
  std::set<std::string> names;
  for (const SortedJson* settings : {&before, &after}) {
    for (const auto& [name, value] : settings->items()) {
      names.insert(name);
    }
  }
  std::vector<std::string> differences;
  for (const std::string& name : names) {
    const std::string old_text = value_text(before, name);
    const std::string new_text = value_text(after, name);
    if (old_text != new_text) {
      differences.push_back(
          fmt::format("{} was {}, now {}", setting_label(name), old_text, new_text));
    }
  }
  return differences;
}

// Returns what the settings of a plan say about the cells of one model and data set.
SortedJson settings_of(const SortedJson& settings, const SortedJson& model,
                       const SortedJson& data) {
  SortedJson own = settings;
  own.erase("inputs");
  const SortedJson inputs = settings.value("inputs", SortedJson());
  for (const SortedJson& of_inputs : inputs.is_array() ? inputs : SortedJson::array()) {
    if (of_inputs.is_object() && of_inputs.value("model", model) == model &&
        of_inputs.value("data", data) == data) {
      SortedJson differing = of_inputs;
      differing.erase("model");
      differing.erase("data");
      own.update(differing);
    }
  }
  return own;
}

std::string cell_label(const SortedJson& cell) {
  const bool is_named = cell.contains("name") && cell["name"].is_string();
  return is_named ? cell["name"].get<std::string>() : cell.dump();
}

std::map<std::string, SortedJson> cells_by_name(const SortedJson& plan) {
  std::map<std::string, SortedJson> cells;
  for (const SortedJson& cell : plan["cells"]) {
    cells[cell_label(cell)] = cell;
  }
  return cells;
}

// Model and data set of each cell, once.
std::set<std::pair<SortedJson, SortedJson>> inputs_of_cells(const SortedJson& plan) {
  std::set<std::pair<SortedJson, SortedJson>> inputs;
  for (const SortedJson& cell : plan["cells"]) {
    if (cell.is_object()) {
      inputs.emplace(cell.value("model", SortedJson()), cell.value("data", SortedJson()));
    }
  }
  return inputs;
}

constexpr const char* kWeightsHash = "weights_hash";

// Compares the settings of the models and data sets that both plans have; of those that one of them
// lacks, the cells are missing.
std::vector<std::string> differences_of_settings(const SortedJson& before,
                                                 const SortedJson& after) {
  const auto inputs_before = inputs_of_cells(before);
  const auto inputs_after = inputs_of_cells(after);
  std::vector<std::string> differences;
  for (const auto& inputs : inputs_before) {
    if (!inputs_after.contains(inputs)) {
      continue;
    }
    const auto& [model, data] = inputs;
    SortedJson old_settings = settings_of(before["settings"], model, data);
    SortedJson new_settings = settings_of(after["settings"], model, data);
    if (!old_settings.contains(kWeightsHash) || !new_settings.contains(kWeightsHash)) {
      // Plans of earlier versions do not say which weights they are about, but for samples of them,
      // and a dry run does not read them.
      old_settings.erase(kWeightsHash);
      new_settings.erase(kWeightsHash);
    }
    const std::string whose =
        inputs_before.size() == 1
            ? ""
            : fmt::format(" ({} with {})", model.is_string() ? model.get<std::string>() : "",
                          data.is_string() ? data.get<std::string>() : "");
    for (const std::string& difference : setting_differences(old_settings, new_settings)) {
      differences.push_back(difference + whose);
    }
  }
  return differences;
}

// Cells of one name are the same: the name has all values of the axes.
std::vector<std::string> differences_of_cells(const std::map<std::string, SortedJson>& before,
                                              const std::map<std::string, SortedJson>& after) {
  std::vector<std::string> differences;
  for (const auto& [name, cell] : before) {
    const auto now = after.find(name);
    if (now == after.end() || !cell.is_object()) {
      continue;
    }
    for (const auto& [key, value] : now->second.items()) {
      if (cell.contains(key) && cell[key] != value) {
        differences.push_back(fmt::format("{} of {} was {}, now {}", setting_label(key), name,
                                          cell[key].dump(), value.dump()));
      }
    }
  }
  return differences;
}

// The extensions of a plan, from the second revision on.
SortedJson revisions_of(const SortedJson& plan) {
  const SortedJson revisions = plan.value("revisions", SortedJson());
  return revisions.is_array() ? revisions : SortedJson::array();
}

// Returns whether `cells` are all that the plan held before one of its extensions.
bool is_earlier_revision(const std::set<std::string>& cells, const SortedJson& plan,
                         std::set<std::string> all) {
  const SortedJson revisions = revisions_of(plan);
  for (auto revision = revisions.rbegin(); revision != revisions.rend(); ++revision) {
    const SortedJson added =
        revision->is_object() ? revision->value("added", SortedJson()) : SortedJson();
    for (const SortedJson& name : added.is_array() ? added : SortedJson::array()) {
      all.erase(name.is_string() ? name.get<std::string>() : name.dump());
    }
    if (all == cells) {
      return true;
    }
  }
  return false;
}

std::set<std::string> names_of(const std::map<std::string, SortedJson>& cells) {
  std::set<std::string> names;
  for (const auto& [name, cell] : cells) {
    names.insert(name);
  }
  return names;
}

// Appends "2 cells less: a, b" where `some` has names that `others` lacks.
void append_surplus(const std::set<std::string>& some, const std::set<std::string>& others,
                    std::string_view direction, std::vector<std::string>& differences) {
  constexpr std::size_t kShown = 5;
  std::vector<std::string> surplus;
  std::set_difference(some.begin(), some.end(), others.begin(), others.end(),
                      std::back_inserter(surplus));
  if (surplus.empty()) {
    return;
  }
  const std::size_t count = surplus.size();
  if (count > kShown) {
    surplus.resize(kShown);
    surplus.push_back("...");
  }
  differences.push_back(fmt::format("{} {} {}: {}", count, count == 1 ? "cell" : "cells", direction,
                                    fmt::join(surplus, ", ")));
}

// Refuses names that cannot be those of files and of groups in an HDF5 file.
std::string name_of(const Json& json) {
  std::string name = json.at("name").get<std::string>();
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw UserError(fmt::format("a cell or pack cannot be named '{}'", name));
  }
  return name;
}

// Returns the placeholder for a value that the file lacks.
std::string unknown_value(std::string Cell::*) {
  return "";
}
std::int64_t unknown_value(std::int64_t Cell::*) {
  return -1;
}
double unknown_value(double Cell::*) {
  return std::numeric_limits<double>::quiet_NaN();
}

Cell cell_of(const Json& json) {
  Cell cell;
  cell.name = name_of(json);
  for_each_value([&](const char* key, auto member) {
    if constexpr (std::is_same_v<decltype(member), std::uint64_t Cell::*>) {
      cell.*member = json.at(key).get<std::uint64_t>();
    } else {
      cell.*member = json.value(key, unknown_value(member));
    }
  });
  for_each_later_value(
      [&](const char* key, auto member) { cell.*member = json.value(key, cell.*member); });
  steered_layers(cell);  // throws for a list that is none
  return cell;
}

std::vector<Cell> cells_of(const Json& json) {
  std::vector<Cell> cells;
  std::set<std::string> names;
  for (const Json& cell : json) {
    cells.push_back(cell_of(cell));
    if (!names.insert(cells.back().name).second) {
      throw UserError(fmt::format("cell '{}' comes twice", cells.back().name));
    }
  }
  return cells;
}

// Checks that every cell is in one pack.
std::vector<Pack> packs_of(const Json& json, const std::vector<Cell>& cells) {
  std::map<std::string, const Cell*> left;
  for (const Cell& cell : cells) {
    left[cell.name] = &cell;
  }
  std::vector<Pack> packs;
  for (const Json& stored : json) {
    Pack pack;
    pack.name = name_of(stored);
    for (const Json& member : stored.at("members")) {
      const auto cell = left.find(member.get<std::string>());
      if (cell == left.end()) {
        throw UserError(
            fmt::format("pack '{}' has the member {}, which is no cell or is in another pack",
                        pack.name, member.dump()));
      }
      pack.members.push_back(*cell->second);
      left.erase(cell);
    }
    packs.push_back(std::move(pack));
  }
  if (!left.empty()) {
    throw UserError(fmt::format("cell '{}' is in no pack", left.begin()->first));
  }
  return packs;
}

// Refuses names of settings that cannot be those of columns in a table, whose type HDF5 keeps in
// 64 kB.
void check_setting_names(const Json& settings) {
  constexpr std::size_t kMostSettings = 200;
  constexpr std::size_t kLongestName = 100;
  std::set<std::string> names;
  const auto add = [&](const Json& object) {
    for (const auto& [name, value] : object.items()) {
      if (name.empty() || name.size() > kLongestName || name.find('\0') != std::string::npos) {
        throw UserError(
            fmt::format("a setting cannot be named '{}'", name.substr(0, kLongestName)));
      }
      names.insert(name);
    }
  };
  if (!settings.is_object()) {
    throw UserError("its settings are not an object");
  }
  add(settings);
  const Json inputs = settings.value("inputs", Json());
  for (const Json& own : inputs.is_array() ? inputs : Json::array()) {
    add(own.is_object() ? own : Json::object());
  }
  if (names.size() > kMostSettings) {
    throw UserError(
        fmt::format("{} settings; there cannot be more than {}", names.size(), kMostSettings));
  }
}

SweepPlan plan_of(const std::string& text) {
  const Json json = Json::parse(text);
  const auto schema = json.at("schema_version").get<std::int64_t>();
  if (schema > kSweepPlanSchema) {
    throw UserError(
        fmt::format("a newer bipo-dist wrote it (schema {}; this one knows {}); use that version",
                    schema, kSweepPlanSchema));
  }
  SweepPlan plan;
  check_setting_names(json.at("settings"));
  plan.settings = json["settings"].dump();
  if (json.at("vectors_per_pass").is_number()) {
    plan.vectors_per_pass = json["vectors_per_pass"].get<std::int64_t>();
  }
  plan.cells = cells_of(json.at("cells"));
  plan.packs = packs_of(json.at("packs"), plan.cells);
  return plan;
}

}  // namespace

std::filesystem::path plan_path(const fs::path& directory) {
  return directory / "plan.json";
}

std::string plan_to_json(const SweepPlan& plan) {
  Json json;
  json["schema_version"] = kSweepPlanSchema;
  json["settings"] = Json::parse(plan.settings);
  if (plan.vectors_per_pass) {
    json["vectors_per_pass"] = *plan.vectors_per_pass;
  } else {
    json["vectors_per_pass"] = "auto";
  }
  json["cells"] = Json::array();
  for (const Cell& cell : plan.cells) {
    json["cells"].push_back(cell_to_json(cell));
  }
  json["packs"] = Json::array();
  for (const Pack& pack : plan.packs) {
    json["packs"].push_back(pack_to_json(pack));
  }
  return json.dump(2) + '\n';
}

std::string read_plan_text(const fs::path& path) {
  return read_input_file(path, kMostTextBytes);
}

PlanFit fit_plan(const std::string& stored, const SweepPlan& now, const std::string& path) {
  const SortedJson before = parse_plan_to_compare(stored, path);
  const SortedJson after = SortedJson::parse(plan_to_json(now));
  std::vector<std::string> differences = differences_of_settings(before, after);
  if (before["vectors_per_pass"] != after["vectors_per_pass"]) {
    differences.push_back(fmt::format("--vectors-per-pass was {}, now {}",
                                      before["vectors_per_pass"].dump(),
                                      after["vectors_per_pass"].dump()));
  }
  const auto cells_before = cells_by_name(before);
  if (cells_before.size() != before["cells"].size()) {
    throw UserError(fmt::format(
        "{}: damaged: a cell comes twice in it; restore it, or give another --out", path));
  }
  const auto cells_after = cells_by_name(after);
  for (std::string& difference : differences_of_cells(cells_before, cells_after)) {
    differences.push_back(std::move(difference));
  }
  const std::set<std::string> names_before = names_of(cells_before);
  const std::set<std::string> names_after = names_of(cells_after);
  const bool is_whole = std::includes(names_after.begin(), names_after.end(), names_before.begin(),
                                      names_before.end());
  if (!is_whole && !is_earlier_revision(names_after, before, names_before)) {
    append_surplus(names_before, names_after, "less", differences);
    append_surplus(names_after, names_before, "more", differences);
  }
  if (!differences.empty()) {
    throw UserError(fmt::format(
        "{}: the sweep in this directory has another plan ({}); a sweep that has begun can get "
        "more cells, by more values of its axes, but keeps those that it has and their settings: "
        "give these too, or another --out",
        path, fmt::join(differences, "; ")));
  }
  PlanFit fit;
  const SortedJson revision = before.value("revision", SortedJson(1));
  fit.revision = revision.is_number_integer() ? revision.get<std::int64_t>() : 1;
  for (const Cell& cell : now.cells) {
    if (!names_before.contains(cell.name)) {
      fit.added.push_back(cell.name);
    }
  }
  for (const SortedJson& cell : before["cells"]) {
    if (!names_after.contains(cell_label(cell))) {
      fit.later.push_back(cell_label(cell));
    }
  }
  return fit;
}

std::string extended_plan(const std::string& stored, const SweepPlan& now,
                          const std::vector<Pack>& packs, const std::string& utc) {
  const Json before = Json::parse(stored);
  Json json;
  json["schema_version"] = kSweepPlanSchema;
  const std::int64_t revision = before.value("revision", std::int64_t{1}) + 1;
  json["revision"] = revision;
  json["revisions"] = before.value("revisions", Json::array());
  Json cells = before.at("cells");
  Json all_packs = before.at("packs");
  std::set<std::string> new_names;
  for (const Pack& pack : packs) {
    all_packs.push_back(pack_to_json(pack));
    for (const Cell& cell : pack.members) {
      new_names.insert(cell.name);
    }
  }
  Json added = Json::array();
  for (const Cell& cell : now.cells) {
    if (new_names.contains(cell.name)) {
      cells.push_back(cell_to_json(cell));
      added.push_back(cell.name);
    }
  }
  json["revisions"].push_back({{"revision", revision}, {"utc", utc}, {"added", std::move(added)}});
  json["settings"] = Json::parse(now.settings);
  json["vectors_per_pass"] = before.at("vectors_per_pass");
  json["cells"] = std::move(cells);
  json["packs"] = std::move(all_packs);
  return json.dump(2) + '\n';
}

std::vector<Pack> packs_in_plan(const std::string& text, const std::vector<Cell>& cells,
                                const std::string& path) {
  std::map<std::string, const Cell*> left;
  for (const Cell& cell : cells) {
    left[cell.name] = &cell;
  }
  std::vector<Pack> packs;
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Json stored = json.is_object() ? json.value("packs", Json()) : Json();
  for (const Json& of_file : stored.is_array() ? stored : Json::array()) {
    const Json members = of_file.is_object() ? of_file.value("members", Json()) : Json();
    Pack pack;
    for (const Json& member : members.is_array() ? members : Json::array()) {
      const auto cell = left.find(member.is_string() ? member.get<std::string>() : "");
      if (cell != left.end()) {
        pack.members.push_back(*cell->second);
      }
    }
    if (pack.members.empty() || pack.members.size() != members.size()) {
      continue;
    }
    pack.name = name_of(of_file);
    for (const Cell& cell : pack.members) {
      left.erase(cell.name);
    }
    packs.push_back(std::move(pack));
  }
  const bool are_alike = std::all_of(packs.begin(), packs.end(), is_well_formed);
  if (!left.empty() || !are_alike) {
    throw UserError(
        fmt::format("{}: damaged: its packs do not hold the sweep's cells, each once, "
                    "with those that train together; restore it, or give another --out",
                    path));
  }
  return packs;
}

std::string describe_added(const SweepPlan& plan, const std::vector<std::string>& added) {
  const std::set<std::string> new_names(added.begin(), added.end());
  std::vector<std::string> axes;
  const auto add_axis = [&](const char* key, auto member) {
    std::set<std::decay_t<decltype(std::declval<Cell>().*member)>> before;
    std::set<std::decay_t<decltype(std::declval<Cell>().*member)>> brought;
    for (const Cell& cell : plan.cells) {
      (new_names.contains(cell.name) ? brought : before).insert(cell.*member);
    }
    std::erase_if(brought, [&](const auto& value) { return before.contains(value); });
    if (!brought.empty()) {
      axes.push_back(fmt::format("{} {}", key, fmt::join(brought, ", ")));
    }
  };
  for_each_value(add_axis);
  for_each_later_value(add_axis);
  return fmt::format("{}", fmt::join(axes, "; "));
}

StoredPlan read_stored_plan(const fs::path& directory) {
  const fs::path path = plan_path(directory);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw UserError(fmt::format(
        "{}: {}; name the directory that `bipo-dist sweep` was given as --out", directory.string(),
        fs::is_directory(directory, ignored) ? "holds no plan.json, so it is not a sweep's"
                                             : "is no directory"));
  }
  const std::string text = read_plan_text(path);
  try {
    return {plan_of(text), text};
  } catch (const UserError& error) {
    throw UserError(
        fmt::format("{}: not a plan that this program can read: {}", path.string(), error.what()));
  } catch (const Json::exception& error) {
    throw UserError(fmt::format("{}: not the plan of a sweep, or damaged ({}); restore it",
                                path.string(), error.what()));
  }
}

}  // namespace bipo
