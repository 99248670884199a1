// Exact sums over pairs: a replica adds the terms of a share in order, and the shares of all
// replicas are added exactly.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/extraction/methods.hpp"

namespace bipo {

class ShareSums {
 public:
  explicit ShareSums(const LayerPass& pass);

  // Takes a term [D], float64 on the CPU.  Local.
  void add(std::int64_t share, const at::Tensor& term);

  // Returns the sum of all replicas' terms, [D] float64 on the CPU.  Collective over: dp
  at::Tensor total() const;

 private:
  LayerPass pass_;
  std::vector<at::Tensor> sums_;  // of each share; undefined: another replica's
};

}  // namespace bipo
