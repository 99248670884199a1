// Shares the pack to train next between the first rank of a group and the others.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "collectives/communicator.hpp"
#include "experiments/sweeps/sweep_plan.hpp"
#include "experiments/sweeps/sweep_queue.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

struct PackAssignment {
  Pack pack;                        // no members: no work is left
  std::vector<std::size_t> active;  // places in the pack of the members that train
  std::vector<Checkpoint> states;   // where the active members continue; none: from zero
};

// Returns the assignment in `taken` of the group's first rank on every rank.  Logs stay with the
// first rank, the only one that writes them.  Collective over: group
PackAssignment share_assignment(const SweepPlan& plan, const SweepQueue* queue,
                                const std::optional<TakenPack>& taken, Communicator& group);

}  // namespace bipo
