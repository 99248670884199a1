// Logits of one block of the vocabulary at a time, for what is summed over the vocabulary without
// ever holding all logits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace bipo {

// Vocabulary rows of `head` [V, D] whose logits exist at one time: on a CPU few enough for them and
// their part of the head to stay in the last-level cache, on a device enough to fill it.
std::int64_t head_block_size(const at::Tensor& head);

// x y in x's type: a bfloat16 product on CUDA accumulates into and returns float32.
at::Tensor head_product(const at::Tensor& x, const at::Tensor& y);

// Logits c tanh(x / c) of x, in place where there is a cap c.
struct SoftCap {
  double cap = 0;  // 0: none

  void apply(const at::Tensor& logits) const;

  // d capped / d x from the capped logits; undefined where there is no cap.
  at::Tensor slopes(const at::Tensor& capped) const;
};

}  // namespace bipo
