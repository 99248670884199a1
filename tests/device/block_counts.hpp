// What one block of a model asks of the simulated device.
#pragma once

#include <c10/core/ScalarType.h>

#include "tests/support/simulated_device.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo::testing {

struct BlockCounts {
  DeviceCounts forward;
  DeviceCounts backward;
};

// Returns the counts of the second block of a model with random weights.
BlockCounts counts_of_block(const ModelConfig& config, at::ScalarType type);

}  // namespace bipo::testing
