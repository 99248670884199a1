// Merges the run files of sweeps, and single ones, into one HDF5 file.
#include "experiments/sweeps/collect.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/files/trial_process.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/cell_summary.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using hdf5::Handle;
using Json = nlohmann::ordered_json;

constexpr hdf5::FileKind kCollectedFile = {"a collected sweep", "collect", "sweep",
                                           kCollectedSchema,    "",        ""};
constexpr const char* kUnreadable = "unreadable";
// What a cell's status may be, in the order of the description.
constexpr std::array kStatuses = {"complete", "running",   "interrupted",
                                  "failed",   kUnreadable, "missing"};

// A run file's content: as a record, and copied to the group kRunCopy of a file in memory.
struct RunContent {
  RunRecord record;
  Handle copy;
};

constexpr const char* kRunCopy = "run";

RunContent read_content(const Handle& file) {
  RunContent content{read_run(file), hdf5::create_memory_file()};
  hdf5::copy_file(file, content.copy, kRunCopy);
  return content;
}

// Nothing of a collected sweep is read but its kind.
bool read_nothing(const Handle& file) {
  return file.id() >= 0;
}

const hdf5::Reading<RunContent> kRunContent("run to collect", kRunFileKind, read_content);
const hdf5::Reading<bool> kCollected("collected sweep", kCollectedFile, read_nothing);

bool is_collected_sweep(const fs::path& path) {
  try {
    return kCollected.from(path);
  } catch (const UserError&) {
    return false;
  }
}

// A sweep's directory, or a run file as a sweep of one cell.
struct Source {
  fs::path path;
  bool is_sweep = false;
  StoredPlan stored;

  fs::path file_of(const Cell& cell) const { return is_sweep ? run_file_path(path, cell) : path; }
};

// Returns the cell that a single run is; what its settings do not say stays unknown.
Cell cell_of(const fs::path& run_file, const RunRecord& record, const Json& config) {
  const auto text = [&](const char* name) {
    const Json value = config.value(name, Json());
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  const auto integer = [&](const char* name) {
    const Json value = config.value(name, Json());
    return value.is_number_integer() ? value.get<std::int64_t>() : std::int64_t{-1};
  };
  const auto number = [&](const char* name) {
    const Json value = config.value(name, Json());
    return value.is_number() ? value.get<double>() : kUnknownFigure;
  };
  Cell cell;
  cell.name = run_file.stem().string();
  cell.model = fs::path(record.attributes.model).filename().string();
  cell.data = fs::path(text("train")).stem().string();
  cell.layer = record.attributes.layer;
  if (!record.attributes.higher_layers.empty()) {
    cell.joint_layers = to_string(steered_layers(record.attributes), "+");
  }
  cell.seed = record.checkpoint.seed;
  cell.lr = number("lr");
  cell.beta = number("beta");
  cell.sign = text("sign");
  cell.batch_size = integer("batch_size");
  cell.epochs = integer("epochs");
  // A run that does not name them has the usual ones.
  if (const std::string objective = text("objective"); !objective.empty()) {
    cell.objective = objective;
  }
  if (const std::string reduction = text("reduction"); !reduction.empty()) {
    cell.reduction = reduction;
  }
  if (const double smoothing = number("label_smoothing"); !std::isnan(smoothing)) {
    cell.label_smoothing = smoothing;
  }
  if (const double gamma = number("simpo_gamma"); !std::isnan(gamma)) {
    cell.simpo_gamma = gamma;
  }
  if (const std::string positions = text("steered_positions"); !positions.empty()) {
    cell.positions = positions;
  }
  return cell;
}

Source source_of_run(const fs::path& run_file) {
  const RunRecord record = read_run_file(run_file);
  const Json parsed = Json::parse(record.attributes.config, nullptr, /*allow_exceptions=*/false);
  const Json config = parsed.is_object() ? parsed : Json::object();
  Source source{run_file, /*is_sweep=*/false, {}};
  SweepPlan& plan = source.stored.plan;
  plan.cells = {cell_of(run_file, record, config)};
  plan.packs = {{plan.cells, plan.cells.front().name}};
  Json settings = config;
  for (const char* axis :
       {"model", "data", "layer", "seed", "lr", "beta", "sign", "batch_size", "epochs", "objective",
        "label_smoothing", "simpo_gamma", "reduction", "steered_positions"}) {
    settings.erase(axis);
  }
  plan.settings = settings.dump();
  source.stored.text = plan_to_json(plan);
  return source;
}

Source open_source(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) {
    return source_of_run(path);
  }
  return {path, /*is_sweep=*/true, read_stored_plan(path)};
}

// Runs have more settings than a sweep's cells share; beside sweeps those of these are kept, and
// the site, which sweeps of block outputs do not name.
void keep_settings_of_sweeps(std::vector<Source>& sources) {
  std::set<std::string> names;
  const auto add = [&](const Json& object) {
    for (const auto& [name, value] : object.items()) {
      names.insert(name);
    }
  };
  for (const Source& source : sources) {
    if (source.is_sweep) {
      const Json settings = Json::parse(source.stored.plan.settings);
      add(settings);
      const Json inputs = settings.value("inputs", Json());
      for (const Json& own : inputs.is_array() ? inputs : Json::array()) {
        add(own.is_object() ? own : Json::object());
      }
    }
  }
  if (!names.empty()) {
    names.insert(kSiteSetting);
  }
  for (Source& source : sources) {
    if (!names.empty() && !source.is_sweep) {
      const Json all = Json::parse(source.stored.plan.settings);
      Json settings = Json::object();
      for (const auto& [name, value] : all.items()) {
        if (names.contains(name)) {
          settings[name] = value;
        }
      }
      source.stored.plan.settings = settings.dump();
    }
  }
}

std::vector<Source> open_sources(const std::vector<fs::path>& paths) {
  std::vector<Source> sources;
  for (const fs::path& path : paths) {
    sources.push_back(open_source(path));
  }
  keep_settings_of_sweeps(sources);
  return sources;
}

// A group of the merged file can hold one run only.
void require_different_cells(const std::vector<Source>& sources) {
  constexpr std::size_t kMostShown = 5;
  std::map<std::string, const Source*> seen;
  std::vector<std::string> twice;
  for (const Source& source : sources) {
    for (const Cell& cell : source.stored.plan.cells) {
      const auto [first, is_new] = seen.try_emplace(cell.name, &source);
      if (!is_new) {
        twice.push_back(fmt::format("{} is in {} and in {}", cell.name,
                                    first->second->path.string(), source.path.string()));
      }
    }
  }
  if (twice.empty()) {
    return;
  }
  const std::size_t count = twice.size();
  if (count > kMostShown) {
    twice.resize(kMostShown);
    twice.push_back(fmt::format("and {} more", count - kMostShown));
  }
  throw UserError(fmt::format(
      "the same cell comes from two places: {}; name one of them, or collect them into two files "
      "(`bipo-dist report` takes both)",
      fmt::join(twice, "; ")));
}

// Returns one plan in the form of plan.json: settings that all sources share, and for each model
// and data set of a source those in which they differ.
std::string joined_plan(const std::vector<Source>& sources) {
  std::vector<Json> settings;
  for (const Source& source : sources) {
    settings.push_back(Json::parse(source.stored.plan.settings));
  }
  const auto is_shared = [&](const std::string& name, const Json& value) {
    return name != "inputs" && std::all_of(settings.begin(), settings.end(), [&](const Json& of) {
             return of.contains(name) && of[name] == value;
           });
  };
  Json common = Json::object();
  Json inputs = Json::array();
  Json cells = Json::array();
  Json packs = Json::array();
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const SweepPlan& plan = sources[i].stored.plan;
    const std::string origin = sources[i].path.string();
    Json own = Json::object();  // of all cells of this source
    for (const auto& [name, value] : settings[i].items()) {
      if (is_shared(name, value)) {
        common[name] = value;
      } else if (name != "inputs") {
        own[name] = value;
      }
    }
    const Json of_plan = Json::parse(plan_to_json(plan));
    std::set<std::pair<std::string, std::string>> seen;
    for (std::size_t c = 0; c < plan.cells.size(); ++c) {
      const Cell& cell = plan.cells[c];
      cells.push_back(of_plan["cells"][c]);
      cells.back()["origin"] = origin;
      if (seen.emplace(cell.model, cell.data).second) {
        Json entry = {{"model", cell.model}, {"data", cell.data}, {"origin", origin}};
        entry.update(own);
        entry.update(own_settings(settings[i], cell));
        inputs.push_back(std::move(entry));
      }
    }
    for (const Json& pack : of_plan["packs"]) {
      packs.push_back(pack);
    }
  }
  common["inputs"] = std::move(inputs);
  const Json joined = {{"schema_version", kSweepPlanSchema},
                       {"settings", std::move(common)},
                       {"vectors_per_pass", "auto"},
                       {"cells", std::move(cells)},
                       {"packs", std::move(packs)}};
  return joined.dump(2) + '\n';
}

bool is_part_of(const Source& source, const fs::path& out) {
  const auto names_out = [place = fs::weakly_canonical(out)](const fs::path& path) {
    return fs::weakly_canonical(path) == place;
  };
  const auto& cells = source.stored.plan.cells;
  return (source.is_sweep && names_out(source.path / "plan.json")) ||
         std::any_of(cells.begin(), cells.end(),
                     [&](const Cell& cell) { return names_out(source.file_of(cell)); });
}

void check_out(const CollectRequest& request, const std::vector<Source>& sources) {
  const std::string out = request.out.string();
  check_replaceable(request.out);
  for (const Source& source : sources) {
    if (is_part_of(source, request.out)) {
      throw UserError(fmt::format(
          "--out {}: {}, which must not be replaced; name another", out,
          source.is_sweep ? "a file of the sweep itself" : "one of the runs to collect"));
    }
  }
  if (!request.overwrite && fs::exists(request.out) && !is_collected_sweep(request.out)) {
    throw UserError(fmt::format(
        "--out {}: exists and was not written by `bipo-dist collect`; name another file, or give "
        "--overwrite",
        out));
  }
}

// Returns the reason without the path, which the reader knows.
std::string reason_of(const std::exception& error, const fs::path& path) {
  const std::string_view message = error.what();
  const std::string prefix = path.string() + ": ";
  return std::string(message.starts_with(prefix) ? message.substr(prefix.size()) : message);
}

void require_run_of(const Cell& cell, const RunRecord& record) {
  const SteeredLayers layers = steered_layers(record.attributes);
  if (layers != steered_layers(cell).at(layers.site()) || record.checkpoint.seed != cell.seed) {
    throw UserError(fmt::format("a run of {} and seed {}, not this cell's", layers_text(layers),
                                record.checkpoint.seed));
  }
}

// `seen`: the status found in the directory before the file was opened.
std::string status_with_file(RunStatus status, CellStatus seen) {
  if (status == RunStatus::kComplete) {
    return to_string(CellStatus::kComplete);
  }
  return to_string(seen == CellStatus::kMissing ? CellStatus::kRunning : seen);
}

std::string status_without_file(CellStatus seen) {
  const bool had_file = seen == CellStatus::kComplete || seen == CellStatus::kInterrupted;
  return to_string(had_file ? CellStatus::kMissing : seen);
}

std::string failure_of(const fs::path& directory, const Cell& cell) {
  const auto failure = read_failure(directory, cell.name);
  if (!failure) {
    return "";
  }
  return failure->host.empty()
             ? failure->reason
             : fmt::format("{} ({}, {})", failure->reason, failure->host, failure->utc);
}

// Copies the run to `runs` and its figures to `row`.  Throws UserError or EnvironmentError where
// the file does not hold the complete run of the cell.
RunStatus collect_run(const fs::path& path, const Cell& cell, const Handle& runs,
                      CellSummary& row) {
  const RunContent run = kRunContent.from(path);
  require_run_of(cell, run.record);
  hdf5::copy_group(run.copy, kRunCopy, runs, cell.name);
  add_run(run.record, row);
  return run.record.attributes.status;
}

// Returns the status of a single run, which no claim and no record of failures is about.
std::string status_of_run(RunStatus status) {
  return status == RunStatus::kDiverged ? to_string(CellStatus::kFailed) : to_string(status);
}

CellSummary collect_cell(const Source& source, const Cell& cell, CellStatus seen,
                         const Handle& runs) {
  CellSummary row;
  row.cell = cell;
  row.status = kUnreadable;
  const fs::path path = source.file_of(cell);
  try {
    if (!fs::exists(path)) {
      row.status = status_without_file(seen);
    } else {
      const RunStatus status = collect_run(path, cell, runs, row);
      row.status = source.is_sweep ? status_with_file(status, seen) : status_of_run(status);
    }
  } catch (const UserError& error) {
    row.failure = reason_of(error, path);
  } catch (const EnvironmentError& error) {
    row.failure = reason_of(error, path);
  }
  if (row.status == to_string(CellStatus::kFailed)) {
    row.failure = source.is_sweep ? failure_of(source.path, cell) : "the training diverged";
  }
  return row;
}

void write_collected_attributes(const Handle& file, const CollectRequest& request,
                                const std::string& plan) {
  hdf5::write_identity(file, kCollectedFile);
  hdf5::write_attribute(file, "plan", plan);
  hdf5::write_attribute(file, "program_version", request.program_version);
  hdf5::write_attribute(file, "git_commit", request.git_commit);
  hdf5::write_attribute(file, "created_utc", utc_text());
  hdf5::write_attributes_checksum(file);
}

std::vector<CellStatus> status_of_cells(const Source& source) {
  if (!source.is_sweep) {
    return {CellStatus::kMissing};
  }
  return SweepMonitor(source.path, source.stored.plan).look();
}

std::vector<CellSummary> collect_cells(const std::vector<Source>& sources, const Handle& file) {
  const TrialProcessKept trials;
  const Handle runs = hdf5::create_group(file, "runs");
  std::vector<CellSummary> rows;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    const Source& source = sources[s];
    const std::vector<CellStatus> seen = status_of_cells(source);
    const std::vector<Cell>& cells = source.stored.plan.cells;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      rows.push_back(collect_cell(source, cells[i], seen[i], runs));
      rows.back().source = s;
      rows.back().origin = sources.size() > 1 ? source.path.string() : "";
    }
  }
  return rows;
}

// Lists at most kMostShown names, then the number of the others.
std::string describe_cells(const std::vector<const CollectedCell*>& cells) {
  constexpr std::size_t kMostShown = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(cells.size(), kMostShown); ++i) {
    const CollectedCell& cell = *cells[i];
    const std::string name =
        cell.origin.empty() ? cell.name : fmt::format("{} in {}", cell.name, cell.origin);
    text += cell.reason.empty() ? fmt::format("  {}\n", name)
                                : fmt::format("  {}: {}\n", name, cell.reason);
  }
  if (cells.size() > kMostShown) {
    text += fmt::format("  and {} more\n", cells.size() - kMostShown);
  }
  return text;
}

}  // namespace

std::vector<CollectedCell> collect_sweep(const CollectRequest& request) {
  const std::vector<Source> sources = open_sources(request.sources);
  check_out(request, sources);
  require_different_cells(sources);
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  write_collected_attributes(
      file, request, sources.size() == 1 ? sources.front().stored.text : joined_plan(sources));
  const std::vector<CellSummary> rows = collect_cells(sources, file);
  std::vector<std::string> settings;
  for (const Source& source : sources) {
    settings.push_back(source.stored.plan.settings);
  }
  write_summary(file, rows, settings);
  remove_stale_temps(request.out);
  replace_file(request.out, hdf5::sealed_image(file));

  std::vector<CollectedCell> cells;
  for (const CellSummary& row : rows) {
    cells.push_back({row.cell.name, row.status, row.failure, row.origin});
  }
  return cells;
}

std::string describe_collection(const std::vector<CollectedCell>& cells, const fs::path& out) {
  std::vector<std::string> counts;
  std::string lists;
  for (const char* status : kStatuses) {
    std::vector<const CollectedCell*> members;
    for (const CollectedCell& cell : cells) {
      if (cell.status == status) {
        members.push_back(&cell);
      }
    }
    if (members.empty()) {
      continue;
    }
    counts.push_back(fmt::format("{} {}", members.size(), status));
    if (status != std::string_view("complete")) {
      lists += fmt::format("{}:\n{}", status, describe_cells(members));
    }
  }
  std::string text = fmt::format("{}: {} {}: {}\n", out.string(), cells.size(),
                                 cells.size() == 1 ? "cell" : "cells", fmt::join(counts, ", "));
  if (!lists.empty()) {
    text +=
        lists +
        "not the whole sweep: run `bipo-dist sweep` with the same options for what is left (add "
        "--retry-failed for failed cells), then collect again\n";
  }
  return text;
}

nlohmann::ordered_json collection_as_json(const std::vector<CollectedCell>& cells,
                                          const fs::path& out) {
  Json counts;
  for (const char* status : kStatuses) {
    counts[status] = std::count_if(cells.begin(), cells.end(), [&](const CollectedCell& cell) {
      return cell.status == status;
    });
  }
  Json list = Json::array();
  for (const CollectedCell& cell : cells) {
    list.push_back({{"name", cell.name},
                    {"status", cell.status},
                    {"reason", cell.reason.empty() ? Json() : Json(cell.reason)}});
    if (!cell.origin.empty()) {
      list.back()["origin"] = cell.origin;
    }
  }
  return {{"out", out.string()}, {"counts", counts}, {"cells", list}};
}

}  // namespace bipo
