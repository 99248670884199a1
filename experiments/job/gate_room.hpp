// What the pass that decides gates takes on a device.
#pragma once

#include <cstdint>
#include <vector>

#include "experiments/job/whole_model.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo {

// Returns the bytes that open_gates() holds on the model's device at least, weights aside, over
// prompts with so many tokens each in batches of `batch_size`; 0 on a CPU.  Local.
double least_gate_bytes(const WholeModel& model, const Gate& gate,
                        const std::vector<std::int64_t>& prompts, std::int64_t batch_size);

}  // namespace bipo
