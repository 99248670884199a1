// A sweep's plan as its directory keeps it.
#include "experiments/sweeps/stored_plan.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

std::string read_text(const fs::path& directory, const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw UserError(fmt::format(
        "{}: {}; name the directory that `bipo-dist sweep` was given as --out", directory.string(),
        fs::is_directory(directory, ignored) ? "holds no plan.json, so it is not a sweep's"
                                             : "is no directory"));
  }
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    throw UserError(fmt::format("{}: cannot be read; change its permissions", path.string()));
  }
  return text;
}

// Names become files and groups of an HDF5 file.
std::string name_of(const Json& json) {
  std::string name = json.at("name").get<std::string>();
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    throw UserError(fmt::format("'{}' cannot name a cell or pack", name));
  }
  return name;
}

Cell cell_of(const Json& json) {
  Cell cell;
  cell.name = name_of(json);
  cell.model = json.value("model", "");
  cell.data = json.value("data", "");
  cell.layer = json.value("layer", std::int64_t{-1});
  cell.seed = json.at("seed").get<std::uint64_t>();
  cell.lr = json.value("lr", kUnknown);
  cell.beta = json.value("beta", kUnknown);
  cell.sign = json.value("sign", "");
  cell.batch_size = json.value("batch_size", std::int64_t{-1});
  cell.epochs = json.value("epochs", std::int64_t{-1});
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

// Every cell is in one pack.
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
            fmt::format("pack '{}' has the member {}, which is no cell or in another "
                        "pack",
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

SweepPlan plan_of(const std::string& text) {
  const Json json = Json::parse(text);
  const auto schema = json.at("schema_version").get<std::int64_t>();
  if (schema > kSweepPlanSchema) {
    throw UserError(
        fmt::format("a newer bipo-dist wrote it (schema {}; this one knows {}); use that version",
                    schema, kSweepPlanSchema));
  }
  SweepPlan plan;
  plan.settings = json.at("settings").dump();
  if (!json["settings"].is_object()) {
    throw UserError("its settings are no object");
  }
  if (json.at("vectors_per_pass").is_number()) {
    plan.vectors_per_pass = json["vectors_per_pass"].get<std::int64_t>();
  }
  plan.cells = cells_of(json.at("cells"));
  plan.packs = packs_of(json.at("packs"), plan.cells);
  return plan;
}

}  // namespace

StoredPlan read_stored_plan(const fs::path& directory) {
  const fs::path path = directory / "plan.json";
  const std::string text = read_text(directory, path);
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
