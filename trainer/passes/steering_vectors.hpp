// Vectors in use: several at one block or at several, each row of a batch with multipliers of its
// own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// M vectors, T rows, D hidden.

struct PlacedVector {
  std::int64_t layer = 0;    // the block whose output it is added to
  std::vector<float> value;  // [D]
};

class SteeringVectors {
 public:
  // On the decoder's device, in the residual type.  Vectors must have the model's hidden size, and
  // layers that it has.  Local.
  SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder);

  std::int64_t count() const { return count_; }  // M

  // Blocks whose output is steered, ascending.
  std::vector<std::int64_t> layers() const;

  // h [T, D], the output of block `layer`, with every vector of that site added, each row with its
  // coefficients [M, T] (of the residual type, on the decoder's device).  A row whose coefficients
  // are all 0 keeps its numbers.
  at::Tensor add(const at::Tensor& h, std::int64_t layer, const at::Tensor& coefficients) const;

 private:
  struct Site {
    std::int64_t layer;
    at::Tensor which;    // [m] int64: the vectors' places among the M
    at::Tensor vectors;  // [m, D]
  };

  std::int64_t count_ = 0;
  std::vector<Site> sites_;  // ascending by layer
};

}  // namespace bipo
