// The directory of a sweep: its plan, the run files of its cells, and how far each pack has come.
#include "experiments/sweep_directory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

#include "collectives/errors.hpp"
#include "experiments/atomic_file.hpp"
#include "experiments/pack_checkpoint.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

fs::path plan_path(const fs::path& directory) {
  return directory / "plan.json";
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw UserError(fmt::format("{}: cannot be read; change its permissions, or give another --out",
                                path.string()));
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

// A first start that was killed may have left a part of the plan, under its temp name.
bool is_unfinished_plan(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with(".plan.json.") && name.ends_with(".tmp");
}

bool holds_files(const fs::path& directory) {
  return std::any_of(fs::directory_iterator(directory), fs::directory_iterator(),
                     [](const auto& entry) { return !is_unfinished_plan(entry.path()); });
}

std::vector<std::optional<RunRecord>> read_run_files(const fs::path& directory, const Pack& pack) {
  std::vector<std::optional<RunRecord>> records;
  for (const Cell& cell : pack.members) {
    const fs::path path = run_file_path(directory, cell);
    records.push_back(fs::exists(path) ? std::optional(read_run_file(path)) : std::nullopt);
  }
  return records;
}

bool is_complete(const std::optional<RunRecord>& record) {
  return record && record->attributes.status == RunStatus::kComplete;
}

PackCheckpoint read_checkpoint_of(const Pack& pack, const fs::path& path) {
  PackCheckpoint checkpoint = read_pack_checkpoint(path);
  const bool is_same = std::equal(
      pack.members.begin(), pack.members.end(), checkpoint.names.begin(), checkpoint.names.end(),
      [](const Cell& cell, const std::string& name) { return cell.name == name; });
  if (!is_same) {
    throw UserError(
        fmt::format("{}: the checkpoint of other cells; remove it, and the pack's cells begin anew",
                    path.string()));
  }
  return checkpoint;
}

// Brings the records of a pack, each saved at its own moment, to the step that all reached.
std::vector<RunRecord> continued(const fs::path& directory, const Pack& pack,
                                 std::vector<std::optional<RunRecord>> records) {
  const fs::path path = pack_checkpoint_path(directory, pack);
  const PackCheckpoint checkpoint = read_checkpoint_of(pack, path);
  std::vector<RunRecord> members;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Checkpoint& state = checkpoint.members[i];
    const std::optional<RunRecord>& record = records[i];
    const bool belongs = record && record->checkpoint.step >= state.step &&
                         record->checkpoint.vector.size() == state.vector.size();
    if (!belongs) {
      throw UserError(fmt::format(
          "{}: {}, but {} continues from step {}; put the run file back, or remove the "
          "checkpoint, and the pack's cells begin anew",
          run_file_path(directory, pack.members[i]).string(),
          record ? fmt::format("holds {} steps of a vector of {} elements", record->checkpoint.step,
                               record->checkpoint.vector.size())
                 : "missing",
          path.string(), state.step));
    }
    members.push_back(*record);
    rewind_to(state, members.back());
  }
  return members;
}

}  // namespace

fs::path run_file_path(const fs::path& directory, const Cell& cell) {
  return directory / (cell.name + ".h5");
}

fs::path pack_checkpoint_path(const fs::path& directory, const Pack& pack) {
  return directory / (pack.name + ".checkpoint");
}

void check_sweep_directory(const fs::path& directory, const std::string& plan) {
  std::error_code unreachable;
  if (!fs::exists(directory, unreachable)) {
    check_replaceable(directory);
    return;
  }
  if (!fs::is_directory(directory)) {
    throw UserError(fmt::format(
        "--out {}: is a file; a sweep writes a directory of run files, name another place",
        directory.string()));
  }
  const fs::path stored = plan_path(directory);
  if (fs::exists(stored)) {
    check_same_plan(read_text(stored), plan, stored.string());
  } else if (holds_files(directory)) {
    throw UserError(
        fmt::format("--out {}: holds files but no plan.json, so no sweep began there; name an "
                    "empty or a new directory",
                    directory.string()));
  }
  check_replaceable(stored);
}

void begin_sweep_directory(const fs::path& directory, const std::string& plan) {
  std::error_code error;
  fs::create_directory(directory, error);
  if (error) {
    throw EnvironmentError(
        fmt::format("cannot make the directory {}: {}", directory.string(), error.message()));
  }
  const fs::path path = plan_path(directory);
  remove_stale_temps(path);
  if (!fs::exists(path)) {
    replace_file(path, std::as_bytes(std::span(plan)));
  }
}

PackProgress read_pack_progress(const fs::path& directory, const Pack& pack) {
  std::vector<std::optional<RunRecord>> records = read_run_files(directory, pack);
  PackProgress progress;
  progress.is_complete = std::all_of(records.begin(), records.end(), is_complete);
  if (progress.is_complete) {
    return progress;
  }
  if (records.size() == 1 && records.front()) {
    progress.members.push_back(std::move(*records.front()));
  } else if (fs::exists(pack_checkpoint_path(directory, pack))) {
    progress.members = continued(directory, pack, std::move(records));
  }
  return progress;
}

void remove_stale_temps(const fs::path& directory, const Pack& pack) {
  for (const Cell& cell : pack.members) {
    remove_stale_temps(run_file_path(directory, cell));
  }
  remove_stale_temps(pack_checkpoint_path(directory, pack));
}

}  // namespace bipo
