// What a rotary embedding means for the elements of a head: frequencies and order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/rotary.hpp"

namespace bipo {

// Returns the angles by which one step in position turns the R / 2 pairs, [R / 2] float32 on the
// CPU, rounded as transformers rounds them.
at::Tensor inverse_frequencies(const RotaryEmbedding& embedding, std::int64_t head_size);

// Returns the row of a query or key head that goes to each place, [K] places in the files' order,
// so that element j of a pair is half a head before the other one; elements that do not turn are
// included.  Scores do not change when queries and keys are reordered alike.
std::vector<std::int64_t> rotary_order(const RotaryEmbedding& embedding, std::int64_t head_size);

}  // namespace bipo
