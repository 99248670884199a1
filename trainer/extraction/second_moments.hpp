// Exact sums of the products of vectors with themselves, which stream by.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "collectives/streamed_sum.hpp"
#include "trainer/extraction/methods.hpp"

namespace bipo {

// sum_i x_i x_i^T over the vectors x_i [D] of all replicas, with the same bits for any number of
// them.  Keeps D (D + 1) / 2 sums and at most 64 vectors.
class SecondMoments {
 public:
  explicit SecondMoments(const LayerPass& pass);

  // Takes a vector [D], float64 on the CPU, contiguous.  Shares come one after the other.  Numbers
  // that are not finite may count as 0.  Local.
  void add(std::int64_t share, const at::Tensor& vector);

  // Returns the upper triangle, [D (D + 1) / 2] float64 on the CPU (see triangle_row()).
  // Collective over: dp x tp
  at::Tensor total();

 private:
  void add_products();

  LayerPass pass_;
  StreamedSum products_;
  std::int64_t last_share_ = -1;
  std::vector<std::vector<double>> waiting_;  // of the last share
};

// Returns the bytes that it takes of a replica.
std::uint64_t second_moments_bytes(std::int64_t hidden);

// The tp ranks' activations may differ in the last bits: returns the sums of the replica's first
// rank, contiguous on the CPU.  Collective over: tp
at::Tensor first_of_replica(const at::Tensor& sum, const LayerPass& pass);

}  // namespace bipo
