// Measures the machine's peak: matrix products at a model's own shapes, copying, and the memory
// used so far.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Returns operations per second of one rank of `tp` in the products of a block, forward (x W^T) and
// backward (g W), for `tokens` rows: the best of several rounds for each product, computed on
// `device` as products in `type` are.  Takes about a second.
double measure_product_rate(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank,
                            std::int64_t tokens, c10::ScalarType type, c10::Device device);

// Returns bytes per second, read and written, of copying arrays larger than the caches.
double measure_copy_rate(c10::Device device);

// Returns the most memory that this process had on `device` (on a CPU: resident, including shared
// memory) since the program's start or the last reset.
std::uint64_t peak_memory_bytes(c10::Device device);
void reset_peak_memory(c10::Device device);

}  // namespace bipo
