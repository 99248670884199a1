// What the first rank of a group tells the others of the pack to train next.
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
  Pack pack;                        // no members: nothing is left to do
  std::vector<std::size_t> active;  // places in the pack of the members that train
  std::vector<Checkpoint> states;   // of the active members, to continue from; none: from zero
};

// `taken` counts on the group's first rank only; every rank gets what it says.  Logs stay with the
// first rank, which alone writes them.  Collective over: group
PackAssignment share_assignment(const SweepPlan& plan, const SweepQueue* queue,
                                const std::optional<TakenPack>& taken, Communicator& group);

}  // namespace bipo
