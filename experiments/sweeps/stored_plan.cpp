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

Json cell_to_json(const Cell& cell) {
  Json json;
  json["name"] = cell.name;
  for_each_value([&](const char* key, auto member) { json[key] = cell.*member; });
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
    throw UserError(
        fmt::format("{}: not the plan of a sweep, or damaged; bipo-dist writes it once and never "
                    "changes it: restore it, or give another --out",
                    path));
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
      differences.push_back(fmt::format("{} was {}, now {}", name, old_text, new_text));
    }
  }
  return differences;
}

// Plans of earlier versions do not say which weights they are about, but for samples of them.
// Removes what only the other plan can say, among the settings of all cells or of some.
void forget_weights_hashes(SortedJson& settings) {
  constexpr const char* kKey = "weights_hash";
  settings.erase(kKey);
  if (settings.contains("inputs") && settings["inputs"].is_array()) {
    for (SortedJson& inputs : settings["inputs"]) {
      if (inputs.is_object()) {
        inputs.erase(kKey);
      }
    }
  }
}

bool has_weights_hashes(SortedJson settings) {
  const SortedJson before = settings;
  forget_weights_hashes(settings);
  return settings != before;
}

std::set<std::string> cell_names(const SortedJson& plan) {
  std::set<std::string> names;
  for (const SortedJson& cell : plan["cells"]) {
    const bool is_named = cell.contains("name") && cell["name"].is_string();
    names.insert(is_named ? cell["name"].get<std::string>() : cell.dump());
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

std::vector<std::string> plan_differences(const SortedJson& before, const SortedJson& after) {
  auto differences = setting_differences(before["settings"], after["settings"]);
  if (before["vectors_per_pass"] != after["vectors_per_pass"]) {
    differences.push_back(fmt::format("vectors_per_pass was {}, now {}",
                                      before["vectors_per_pass"].dump(),
                                      after["vectors_per_pass"].dump()));
  }
  const auto cells_before = cell_names(before);
  const auto cells_after = cell_names(after);
  append_surplus(cells_before, cells_after, "less", differences);
  append_surplus(cells_after, cells_before, "more", differences);
  if (differences.empty() && before != after) {
    differences.push_back("the same cells are in another order or in other packs");
  }
  return differences;
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

void check_same_plan(const std::string& stored, const std::string& now, const std::string& path) {
  const SortedJson before = parse_plan_to_compare(stored, path);
  SortedJson after = SortedJson::parse(now);
  if (!has_weights_hashes(before["settings"])) {
    forget_weights_hashes(after["settings"]);
  }
  const auto differences = plan_differences(before, after);
  if (!differences.empty()) {
    throw UserError(fmt::format(
        "{}: the sweep in this directory has another plan ({}); a plan is fixed when its sweep "
        "first starts, and cells are not added later: give the settings of that time, or another "
        "--out",
        path, fmt::join(differences, "; ")));
  }
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
