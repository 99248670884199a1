#include "experiments/sweep_run/pack_observer.hpp"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo {

PackSaver::PackSaver(std::filesystem::path path, std::size_t pack_size,
                     std::set<std::string> active, ReplaceGuard may_replace,
                     ProgressDisplay& display)
    : path_(std::move(path)),
      pack_size_(pack_size),
      active_(std::move(active)),
      may_replace_(std::move(may_replace)),
      display_(display) {
}

void PackSaver::after_save(const std::string& member, std::optional<Checkpoint> saved,
                           RunStatus status) {
  if (asked_.contains(member)) {
    asked_.clear();
  }
  if (asked_.empty()) {
    saved_ = {};
  }
  asked_.insert(member);
  if (saved) {
    saved_.names.push_back(member);
    saved_.members.push_back(std::move(*saved));
  }
  const bool all_are_saved = asked_ == active_ && saved_.names.size() == active_.size();
  if (all_are_saved && pack_size_ > 1) {
    commit(status);
  }
  if (asked_ == active_) {
    asked_.clear();
  }
}

void PackSaver::drop(const std::string& member) {
  active_.erase(member);
  asked_.clear();
}

void PackSaver::commit(RunStatus status) {
  if (status == RunStatus::kComplete) {
    if (may_replace_ && !may_replace_()) {
      return;
    }
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (error) {
      warn(fmt::format("{} is not needed any more, but cannot be removed: {}", path_.string(),
                       error.message()));
    }
    return;
  }
  const bool is_new_failure = failure_.empty();
  try {
    write_pack_checkpoint(path_, saved_, may_replace_);
    failure_.clear();
  } catch (const EnvironmentError& error) {
    failure_ = fmt::format("not saved; the checkpoint of the last save remains: {}", error.what());
    if (is_new_failure && status == RunStatus::kRunning) {
      warn(failure_);
    }
  }
}

void PackSaver::warn(const std::string& text) {
  display_.warn(text);
}

PackObserver::PackObserver(Context context, RunObserver& run, PackSaver& saver)
    : context_(std::move(context)), run_(run), saver_(saver) {
}

void PackObserver::on_step(const StepRow& row) {
  if (context_.is_reporter()) {
    run_.on_step(row);
    context_.on_step(row);
  } else {
    run_.log_step(row);
  }
}

void PackObserver::on_evaluation(const std::vector<EvalRow>& rows) {
  if (context_.is_reporter()) {
    run_.on_evaluation(rows);
  }
}

void PackObserver::on_failure(const std::string& reason) {
  saver_.drop(context_.member);
  context_.on_failure(reason);
}

void PackObserver::on_early_end() {
  if (is_saved_) {
    saver_.drop(context_.member);
  }
  context_.on_early_end();
}

void PackObserver::on_warning(const std::string& text) {
  run_.on_warning(text);
}

void PackObserver::save(const TrainingRecord& record, RunStatus status) {
  if (context_.is_complete) {
    is_saved_ = true;
    saver_.after_save(context_.member, record.checkpoint, status);
    return;
  }
  run_.save(record, status);
  const bool is_saved = run_.saved_step() == record.checkpoint.step;
  is_saved_ = is_saved && run_.failure().empty();
  saver_.after_save(context_.member, is_saved ? std::optional(record.checkpoint) : std::nullopt,
                    status);
}

}  // namespace bipo
