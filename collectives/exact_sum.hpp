// Sums of floating-point vectors that do not depend on order, algorithm or the number of ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "collectives/communicator.hpp"

namespace bipo {

// Returns the sum of the `contributions` of all ranks of `group`, as float64 on the CPU.
//
// Converts each contribution to int64 fixed point with one power-of-two scale, which follows from
// the largest magnitude among all elements of all ranks, and adds integers, locally and then across
// the group, so that any order gives the same bits.  Rounds an element to a multiple of
// 2^-(61 - ceil(log2(total_contributions))) of the largest one, far below float32's own 2^-24.
//
// contributions: any number, also none, each [n], float32 or float64, in the memory that `group`
// moves.  total_contributions: their number over the whole group, the same on every rank.  If any
// element is not finite, all elements of the sum are NaN on every rank.  Collective over: group
at::Tensor exact_sum(const std::vector<at::Tensor>& contributions, std::int64_t n,
                     at::Device device, std::int64_t total_contributions, Communicator& group);

// The same for M vectors at once, with the same bits, where they are: nobody waits for an
// accelerator.
//
// contributions: [m, M, n], m of this rank (or none) to each sum.  Returns [M, n], float64 on their
// device.  Collective over: group
at::Tensor exact_sums(const at::Tensor& contributions, std::int64_t total_contributions,
                      Communicator& group);

}  // namespace bipo
