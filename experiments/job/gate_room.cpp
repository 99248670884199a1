#include "experiments/job/gate_room.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "datasets/batches/batch_plan.hpp"
#include "trainer/cost/forward_memory.hpp"

namespace bipo {

double least_gate_bytes(const WholeModel& model, const Gate& gate,
                        const std::vector<std::int64_t>& prompts, std::int64_t batch_size) {
  const Computation& computation = model.computation;
  if (computation.device.is_cpu()) {
    return 0;
  }
  double most = 0;
  SeenPasses<BlockRows> seen;
  for (const std::vector<std::int64_t>& group :
       consecutive_groups(std::ssize(prompts), batch_size)) {
    // Prompts stand side by side there.
    BlockRows rows;
    for (const std::int64_t prompt : group) {
      rows.add_sequence(static_cast<double>(prompts[static_cast<std::size_t>(prompt)]));
    }
    if (!seen.add(rows)) {
      continue;
    }
    const std::vector<double> least =
        least_block_bytes(model.files.config, computation.topology.tp(), element_bytes(computation),
                          rows, computation.flash);
    most = std::max(most, *std::max_element(least.begin(), least.begin() + gate.vector.layer + 1));
  }
  return most;
}

}  // namespace bipo
