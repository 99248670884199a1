// Which rows of a packed batch attend to which, and where they stand in their sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "trainer/model/range.hpp"

namespace bipo {

// T: tokens of the packed batch, K: head size.

// Rows that follow one another in a sequence.  Each attends to all rows of `context` (earlier parts
// of its sequence), to itself and to the rows of the span before it.
struct AttentionSpan {
  Range rows;
  std::vector<Range> context;
};

// Spans cover [0, T) without gaps, in order.  Made by Decoder::layout().
struct SequenceLayout {
  std::vector<AttentionSpan> spans;
  at::Tensor cos;          // [T, 1, K] rotary factors at each row's position
  at::Tensor sin;          // [T, 1, K]
  at::Tensor causal_mask;  // [n, n] bool, n the longest span: true where a row must not look
};

}  // namespace bipo
