// Connects the training loop to the members of a pack: each has its run file, all have one
// checkpoint.
#include "launcher/pack_observer.hpp"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "collectives/errors.hpp"

namespace bipo {

PackSaver::PackSaver(std::filesystem::path path, std::vector<std::string> names,
                     ProgressDisplay* display)
    : path_(std::move(path)), display_(display) {
  saved_.names = std::move(names);
}

void PackSaver::after_save(std::size_t member, std::optional<Checkpoint> saved, RunStatus status) {
  if (member == 0) {
    saved_.members.clear();
  }
  if (saved) {
    saved_.members.push_back(std::move(*saved));
  }
  const std::size_t members = saved_.names.size();
  const bool all_are_saved = member + 1 == members && saved_.members.size() == members;
  if (all_are_saved && members > 1) {
    commit(status);
  }
}

void PackSaver::commit(RunStatus status) {
  if (status == RunStatus::kComplete) {
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (error) {
      warn(fmt::format("{} is not needed any more, but cannot be removed: {}", path_.string(),
                       error.message()));
    }
    return;
  }
  try {
    write_pack_checkpoint(path_, saved_);
  } catch (const EnvironmentError& error) {
    if (status != RunStatus::kRunning) {
      throw;
    }
    warn(fmt::format("not saved, the checkpoint of the last save stands: {}", error.what()));
  }
}

void PackSaver::warn(const std::string& text) {
  if (display_ != nullptr) {
    display_->message("warning: " + text);
  }
}

void PackObserver::on_step(const StepRow& row) {
  if (member_ == 0) {
    run_.on_step(row);
  }
}

void PackObserver::on_evaluation(const std::vector<EvalRow>& rows) {
  if (member_ == 0) {
    run_.on_evaluation(rows);
  }
}

void PackObserver::save(const TrainingRecord& record, RunStatus status) {
  run_.save(record, status);
  const bool is_saved = run_.saved_step() == record.checkpoint.step;
  saver_.after_save(member_, is_saved ? std::optional(record.checkpoint) : std::nullopt, status);
}

}  // namespace bipo
