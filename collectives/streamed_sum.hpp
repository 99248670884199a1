// Exact sums of long vectors of which there are too many to keep.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "collectives/communicator.hpp"

namespace bipo {

// The sum of any number of vectors [n], over the ranks of a group, with the same bits for every
// order, grouping and number of ranks, like exact_sum(), but without knowing the largest element
// before the first is added.
//
// Cuts every number into digits to the base 2^32, at places that do not depend on the data, and
// keeps integer sums of the three highest places that any element reached (an accumulator by places
// as in Ahrens, Demmel and Nguyen 2020, "Algorithms for efficient reproducible floating point
// summation").  What lies below the third place is dropped: at most 2^-64 of the power of 2^32 that
// the largest element reached, of each term.  Takes 24 n bytes.
class StreamedSum {
 public:
  explicit StreamedSum(std::int64_t n);

  // Adds values [n].  An element that is not finite counts as 0.  At most 2^31 additions over all
  // ranks.  Local.
  void add(const std::vector<double>& values);

  // Returns the sum over all ranks, [n] float64 on the CPU.  `device`: the memory that `group`
  // moves.  Collective over: group
  at::Tensor total(at::Device device, Communicator& group);

 private:
  void raise(std::int64_t top);

  static constexpr std::int64_t kPlaces = 3;

  std::int64_t n_;
  std::int64_t top_;   // the highest place in use, that of 2^(32 top)
  at::Tensor digits_;  // [kPlaces, n] int64, the highest first
};

}  // namespace bipo
