// The typical size of the residual stream after a block, the unit that vectors are measured in.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "collectives/session.hpp"

namespace bipo {

// T tokens, D hidden.

// [T] root mean square over D of each row of h [T, D], float64 on the CPU.
at::Tensor token_rms(const at::Tensor& h);

// Median of what the replicas found of different tokens, `rms` being 0 for those of the others; the
// same on every rank, to the bit.  `device`: the model's.  Collective over: dp x tp
double shared_median(const std::vector<double>& rms, at::Device device, const Ranks& ranks);

}  // namespace bipo
