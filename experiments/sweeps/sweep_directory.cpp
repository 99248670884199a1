// The directory of a sweep: its plan, the run files of its cells, and the state of packs and cells.
#include "experiments/sweeps/sweep_directory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/host_name.hpp"
#include "collectives/foundation/input_file.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/pack_checkpoint.hpp"
#include "experiments/sweeps/stored_plan.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

// A killed first start may have left a part of the plan, under its temp name.
bool is_unfinished_plan(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with(".plan.json.") && name.ends_with(".tmp");
}

// The claim under which that start wrote it is no other's file either.
bool holds_files(const fs::path& directory) {
  return std::any_of(
      fs::directory_iterator(directory), fs::directory_iterator(), [](const auto& entry) {
        return !is_unfinished_plan(entry.path()) && entry.path().filename() != "claims";
      });
}

// The claim on the plan itself; no pack has such a name.
constexpr const char* kPlanClaim = "plan.json";

std::vector<Cell> cells_named(const std::vector<std::string>& names, const SweepPlan& plan) {
  const std::set<std::string> wanted(names.begin(), names.end());
  std::vector<Cell> cells;
  std::copy_if(plan.cells.begin(), plan.cells.end(), std::back_inserter(cells),
               [&](const Cell& cell) { return wanted.contains(cell.name); });
  return cells;
}

// Ends what a job left that was killed while it wrote the plan.
void clear_plan_claim(const fs::path& directory) {
  if (!has_claim(directory, kPlanClaim)) {
    return;
  }
  if (const auto claim = Claim::take(directory, kPlanClaim)) {
    remove_stale_temps(plan_path(directory));
    claim->finish();
  }
}

std::optional<RunRecord> read_if_there(const fs::path& path) {
  return fs::exists(path) ? std::optional(read_run_to_continue(path)) : std::nullopt;
}

bool is_complete(const std::optional<RunRecord>& record) {
  return record && record->attributes.status == RunStatus::kComplete;
}

// Returns the index in `pack` of every member of the checkpoint, which lacks the members that
// failed before it was written.
std::vector<std::size_t> places_of(const PackCheckpoint& checkpoint, const Pack& pack,
                                   const fs::path& path) {
  std::vector<std::size_t> places;
  auto next = pack.members.begin();
  for (const std::string& name : checkpoint.names) {
    next =
        std::find_if(next, pack.members.end(), [&](const Cell& cell) { return cell.name == name; });
    if (next == pack.members.end()) {
      throw UserError(fmt::format(
          "{}: the checkpoint of other cells; remove it, and the pack's cells start again",
          path.string()));
    }
    places.push_back(static_cast<std::size_t>(next - pack.members.begin()));
    ++next;
  }
  return places;
}

// Returns the record, which may have been saved later, as it was at the checkpoint's step.
RunRecord continued(const std::optional<RunRecord>& record, const Checkpoint& state,
                    const fs::path& run_file, const fs::path& checkpoint) {
  const bool belongs = record && record->checkpoint.step >= state.step &&
                       record->checkpoint.vector.size() == state.vector.size();
  if (!belongs) {
    throw UserError(
        fmt::format("{}: {}, but {} continues from step {}; put the run file back, or remove the "
                    "checkpoint, and the pack's cells start again",
                    run_file.string(),
                    record ? fmt::format("holds {} steps of a vector of {} elements",
                                         record->checkpoint.step, record->checkpoint.vector.size())
                           : "missing",
                    checkpoint.string(), state.step));
  }
  RunRecord rewound = *record;
  rewind_to(state, rewound);
  return rewound;
}

void continue_from_checkpoint(const fs::path& directory, const Pack& pack,
                              const std::vector<std::optional<RunRecord>>& records,
                              const std::set<std::size_t>& failed, PackProgress& progress) {
  const fs::path path = pack_checkpoint_path(directory, pack);
  const PackCheckpoint checkpoint = read_pack_checkpoint(path);
  const std::vector<std::size_t> places = places_of(checkpoint, pack, path);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::size_t place = places[i];
    if (!failed.contains(place)) {
      progress.active.push_back(place);
      progress.records.push_back(continued(records[place], checkpoint.members[i],
                                           run_file_path(directory, pack.members[place]), path));
    }
  }
}

fs::path record_path(const fs::path& directory, const std::string& cell) {
  return directory / "failures" / (cell + ".json");
}

// Returns the new name.
fs::path set_aside(const fs::path& file) {
  fs::path name = file;
  name += ".damaged";
  for (int i = 2; fs::exists(fs::symlink_status(name)); ++i) {
    name = file;
    name += fmt::format(".damaged.{}", i);
  }
  std::error_code error;
  fs::rename(file, name, error);
  if (error) {
    throw EnvironmentError(
        fmt::format("cannot rename {} to {}: {}", file.string(), name.string(), error.message()));
  }
  return name;
}

bool is_complete_file(const fs::path& run_file) {
  try {
    return read_run_status(run_file) == RunStatus::kComplete;
  } catch (const UserError&) {
    return false;
  }
}

}  // namespace

fs::path run_file_path(const fs::path& directory, const Cell& cell) {
  return directory / (cell.name + ".h5");
}

fs::path pack_checkpoint_path(const fs::path& directory, const Pack& pack) {
  return directory / (pack.name + ".checkpoint");
}

DirectoryPlan check_sweep_directory(const fs::path& directory, const SweepPlan& plan,
                                    const PackMaker& pack) {
  std::error_code unreachable;
  if (!fs::exists(directory, unreachable)) {
    check_replaceable(directory);
    return {plan_to_json(plan), {}, false};
  }
  if (!fs::is_directory(directory)) {
    throw UserError(fmt::format(
        "--out {}: is a file; a sweep writes a directory of run files; name another place",
        directory.string()));
  }
  DirectoryPlan found = plan_in_directory(directory, plan, pack);
  if (!found.is_in_directory && holds_files(directory)) {
    throw UserError(
        fmt::format("--out {}: holds files but no plan.json, so no sweep started there; name an "
                    "empty or a new directory",
                    directory.string()));
  }
  check_replaceable(plan_path(directory), /*bytes=*/0);
  return found;
}

DirectoryPlan plan_in_directory(const fs::path& directory, const SweepPlan& plan,
                                const PackMaker& pack) {
  const std::string text = stored_plan(directory);
  if (text.empty()) {
    return {plan_to_json(plan), {}, false};
  }
  PlanFit fit = fit_plan(text, plan, plan_path(directory).string());
  if (fit.added.empty()) {
    return {text, std::move(fit), true};
  }
  std::string extended = extended_plan(text, plan, pack(cells_named(fit.added, plan)), utc_text());
  return {std::move(extended), std::move(fit), true};
}

std::string stored_plan(const fs::path& directory) {
  const fs::path stored = plan_path(directory);
  std::error_code unreachable;  // check_sweep_directory() says what is wrong with such a path
  return fs::exists(stored, unreachable) ? read_plan_text(stored) : "";
}

std::string begin_sweep_directory(const fs::path& directory, const SweepPlan& plan,
                                  const PackMaker& pack) {
  std::error_code error;
  fs::create_directory(directory, error);
  if (error) {
    throw EnvironmentError(
        fmt::format("cannot make the directory {}: {}", directory.string(), error.message()));
  }
  const fs::path path = plan_path(directory);
  constexpr std::chrono::milliseconds kPause{100};
  while (true) {
    const DirectoryPlan before = plan_in_directory(directory, plan, pack);
    if (before.is_in_directory && before.fit.added.empty()) {
      clear_plan_claim(directory);
      return before.text;
    }
    const auto claim = Claim::take(directory, kPlanClaim);
    if (!claim) {
      std::this_thread::sleep_for(kPause);  // another job writes the plan
      continue;
    }
    // What is there now stays, as long as the claim is ours.
    const DirectoryPlan now = plan_in_directory(directory, plan, pack);
    if (!now.is_in_directory || !now.fit.added.empty()) {
      remove_stale_temps(path);
      replace_file(path, std::as_bytes(std::span(now.text)), [&] { return claim->is_mine(); });
    }
    claim->finish();
  }
}

void write_failure(const fs::path& directory, const std::string& cell, const std::string& reason) {
  const fs::path path = record_path(directory, cell);
  std::error_code error;
  fs::create_directory(path.parent_path(), error);
  if (error) {
    throw EnvironmentError(fmt::format("cannot make the directory {}: {}",
                                       path.parent_path().string(), error.message()));
  }
  const nlohmann::ordered_json json = {
      {"reason", reason}, {"utc", utc_text()}, {"host", host_name()}};
  constexpr auto replace_bad_utf8 = nlohmann::ordered_json::error_handler_t::replace;
  const std::string text = json.dump(2, ' ', false, replace_bad_utf8) + '\n';
  remove_stale_temps(path);
  replace_file(path, std::as_bytes(std::span(text)));
}

std::optional<CellFailure> read_failure(const fs::path& directory, const std::string& cell) {
  const fs::path path = record_path(directory, cell);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return std::nullopt;
  }
  try {
    const auto json = nlohmann::json::parse(read_input_file(path, kMostSettingsBytes));
    return CellFailure{json.at("reason").get<std::string>(), json.at("utc").get<std::string>(),
                       json.at("host").get<std::string>()};
  } catch (const std::exception&) {
    return CellFailure{fmt::format("unknown: its record {} cannot be read", path.string()), "", ""};
  }
}

void clear_failure(const fs::path& directory, const std::string& cell) {
  const fs::path path = record_path(directory, cell);
  std::error_code error;
  fs::remove(path, error);
  if (error) {
    throw EnvironmentError(fmt::format("cannot remove {}: {}", path.string(), error.message()));
  }
}

PackProgress read_pack_progress(const fs::path& directory, const Pack& pack, bool retries_failed) {
  PackProgress progress;
  std::vector<std::optional<RunRecord>> records;
  std::set<std::size_t> failed;
  progress.is_done = true;
  for (std::size_t i = 0; i < pack.members.size(); ++i) {
    const Cell& cell = pack.members[i];
    records.push_back(read_if_there(run_file_path(directory, cell)));
    if (!retries_failed && read_failure(directory, cell.name)) {
      failed.insert(i);
    } else {
      progress.is_done = progress.is_done && is_complete(records.back());
    }
  }
  if (progress.is_done) {
    return progress;
  }
  if (pack.members.size() > 1 && fs::exists(pack_checkpoint_path(directory, pack))) {
    continue_from_checkpoint(directory, pack, records, failed, progress);
    return progress;
  }
  for (std::size_t i = 0; i < pack.members.size(); ++i) {
    if (!failed.contains(i)) {
      progress.active.push_back(i);
    }
  }
  if (pack.members.size() == 1 && records.front()) {
    progress.records.push_back(std::move(*records.front()));
  }
  return progress;
}

std::vector<std::string> set_aside_damaged(const fs::path& directory, const Pack& pack,
                                           bool retries_failed) {
  std::vector<std::string> notes;
  for (const Cell& cell : pack.members) {
    const fs::path file = run_file_path(directory, cell);
    try {
      read_if_there(file);
    } catch (const UserError& error) {
      notes.push_back(fmt::format("{}; kept as {}; the cell starts again", error.what(),
                                  set_aside(file).string()));
    }
  }
  const fs::path checkpoint = pack_checkpoint_path(directory, pack);
  if (pack.members.size() > 1 && fs::exists(checkpoint)) {
    try {
      read_pack_progress(directory, pack, retries_failed);
    } catch (const UserError& error) {
      notes.push_back(fmt::format("{}; the checkpoint is kept as {}; the pack's cells start again",
                                  error.what(), set_aside(checkpoint).string()));
    }
  }
  return notes;
}

void remove_stale_temps(const fs::path& directory, const Pack& pack) {
  for (const Cell& cell : pack.members) {
    remove_stale_temps(run_file_path(directory, cell));
  }
  remove_stale_temps(pack_checkpoint_path(directory, pack));
}

std::string to_string(CellStatus status) {
  switch (status) {
    case CellStatus::kComplete:
      return "complete";
    case CellStatus::kRunning:
      return "running";
    case CellStatus::kInterrupted:
      return "interrupted";
    case CellStatus::kFailed:
      return "failed";
    case CellStatus::kMissing:
      break;
  }
  return "missing";
}

SweepMonitor::SweepMonitor(fs::path directory, const SweepPlan& plan, const ClaimTimes& times)
    : directory_(std::move(directory)),
      times_(times),
      cells_(plan.cells),
      status_(plan.cells.size(), CellStatus::kMissing) {
  std::map<std::string, std::string> packs;
  for (const Pack& pack : plan.packs) {
    for (const Cell& cell : pack.members) {
      packs[cell.name] = pack.name;
    }
  }
  for (const Cell& cell : cells_) {
    pack_of_cell_.push_back(packs.at(cell.name));
  }
}

const std::vector<CellStatus>& SweepMonitor::look() {
  std::map<std::string, bool> claimed;  // by pack
  for (std::size_t i = 0; i < cells_.size(); ++i) {
    if (status_[i] == CellStatus::kComplete) {
      continue;
    }
    const std::string& pack = pack_of_cell_[i];
    if (!claimed.contains(pack)) {
      claimed[pack] = claim_state(directory_, pack, times_) == ClaimState::kLive;
    }
    status_[i] = look_at(cells_[i], claimed[pack]);
  }
  return status_;
}

CellStatus SweepMonitor::look_at(const Cell& cell, bool is_claimed) const {
  const fs::path run_file = run_file_path(directory_, cell);
  const bool has_file = fs::exists(run_file);
  if (has_file && is_complete_file(run_file)) {
    return CellStatus::kComplete;
  }
  if (read_failure(directory_, cell.name)) {
    return CellStatus::kFailed;
  }
  if (is_claimed) {
    return CellStatus::kRunning;
  }
  return has_file ? CellStatus::kInterrupted : CellStatus::kMissing;
}

}  // namespace bipo
