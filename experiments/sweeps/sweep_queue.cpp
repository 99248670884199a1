// The work left in a sweep, taken pack by pack under claims.
#include "experiments/sweeps/sweep_queue.hpp"

#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {

SweepQueue::SweepQueue(std::filesystem::path directory, const std::vector<Pack>& packs,
                       bool retries_failed)
    : directory_(std::move(directory)) {
  for (const Pack& pack : packs) {
    tasks_.push_back({pack, /*is_retry=*/false});
  }
  for (const Pack& pack : packs) {
    for (const Cell& cell : pack.members) {
      if (retries_failed && read_failure(directory_, cell.name)) {
        tasks_.push_back({{{cell}, cell.name}, /*is_retry=*/true});
      }
    }
  }
  done_.assign(tasks_.size(), false);
  free_tasks();
}

// Removes what an owner left that was killed after its last save, before it cleaned up.
void SweepQueue::mark_done(std::size_t task) {
  done_[task] = true;
  const Pack& pack = tasks_[task].pack;
  if (!has_claim(directory_, pack.name)) {
    return;
  }
  if (const auto claim = Claim::take(directory_, pack.name)) {
    remove_stale_temps(directory_, pack);
    std::error_code ignored;  // a remaining file does no harm
    std::filesystem::remove(pack_checkpoint_path(directory_, pack), ignored);
    claim->finish();
  }
}

bool SweepQueue::is_owned(const PackTask& task) const {
  return claim_state(directory_, task.pack.name) == ClaimState::kLive;
}

std::optional<PackProgress> SweepQueue::look(const PackTask& task) const {
  if (is_owned(task)) {
    return std::nullopt;
  }
  try {
    return read_pack_progress(directory_, task.pack, task.is_retry);
  } catch (const UserError&) {
    // Damaged, for take() to see to under a claim; or an owner is writing, and the claim fails.
    return is_owned(task) ? std::nullopt : std::optional(PackProgress());
  }
}

std::vector<std::size_t> SweepQueue::free_tasks() {
  std::vector<std::size_t> free;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    if (done_[i]) {
      continue;
    }
    const std::optional<PackProgress> progress = look(tasks_[i]);
    if (progress && progress->is_done) {
      mark_done(i);
    } else if (progress) {
      free.push_back(i);
    }
  }
  return free;
}

void SweepQueue::read_files(TakenPack& taken) const {
  const PackTask& task = tasks_[taken.task];
  try {
    taken.progress = read_pack_progress(directory_, task.pack, task.is_retry);
    return;
  } catch (const UserError&) {
    taken.notes = set_aside_damaged(directory_, task.pack, task.is_retry);
  }
  try {
    taken.progress = read_pack_progress(directory_, task.pack, task.is_retry);
  } catch (const UserError& error) {
    taken.problem = error.what();
  }
}

std::optional<TakenPack> SweepQueue::take(const Wanted& wanted) {
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    const PackTask& task = tasks_[i];
    if (done_[i] || !wanted(task.pack)) {
      continue;
    }
    TakenPack taken{i, Claim::take(directory_, task.pack.name), {}, {}, {}};
    if (!taken.claim) {
      continue;
    }
    read_files(taken);
    if (!taken.progress.is_done) {
      return taken;
    }
    finish(taken);
  }
  return std::nullopt;
}

bool SweepQueue::may_come_free() {
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    const Pack& pack = tasks_[i].pack;
    if (done_[i]) {
      continue;
    }
    const ClaimSign sign = read_claim(directory_, pack.name);
    if (sign.state == ClaimState::kFree) {
      return true;
    }
    const auto [first, is_new] = first_seen_.try_emplace(pack.name, sign.renewed);
    if (!sign.is_proven && (is_new || first->second == sign.renewed)) {
      return true;
    }
  }
  return false;
}

void SweepQueue::finish(TakenPack& taken) {
  taken.claim->finish();
  done_[taken.task] = true;
}

void SweepQueue::release(TakenPack& taken) {
  taken.claim->release();
}

void SweepQueue::give_up(TakenPack& taken) {
  taken.claim->release();
  done_[taken.task] = true;
}

}  // namespace bipo
