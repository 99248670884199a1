// A packed batch through the model under many settings of vectors: what comes before the lowest
// steered block once, the rest once for each setting.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/packing.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// T packed tokens, U rows that predict, D hidden, M vectors.

class SteeredPass {
 public:
  // All but `positions` must outlive the pass.  Runs the blocks up to the lowest one that `vectors`
  // steer; the model must be loaded whole. Collective over: tp
  SteeredPass(const Decoder& decoder, const SteeringVectors& vectors, const PackedAnswers& packed,
              SteeredPositions positions);

  // The last block's output under one coefficient for each vector [M], without gradient; all zeros
  // give the model's own numbers.  Collective over: tp
  at::Tensor to_answers(const std::vector<double>& coefficients) const;  // [U, D]
  at::Tensor to_all(const std::vector<double>& coefficients) const;      // [T, D]

 private:
  ResidualStream steered(const std::vector<double>& coefficients) const;

  const Decoder& decoder_;
  const SteeringVectors& vectors_;
  const PackedAnswers& packed_;
  std::vector<std::int64_t> layers_;
  at::Tensor mask_;        // [T] of the residual type: 1 where a row is steered
  ResidualStream prefix_;  // output of the lowest steered block, or the embedding
};

}  // namespace bipo
