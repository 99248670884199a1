// The frequencies of a rotary embedding, and the order of a head's elements that it needs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Returns the angles by which one step in position turns the R / 2 pairs, [R / 2] float32 on the
// CPU, rounded as transformers rounds them.
at::Tensor inverse_frequencies(const RotaryEmbedding& embedding, std::int64_t head_size);

// Returns, for each element of a reordered query or key head, its row in the files, [K], so that
// the elements of a pair are half a head apart.  Elements that do not turn are included.  Scores do
// not change if queries and keys are reordered alike.
std::vector<std::int64_t> rotary_order(const RotaryEmbedding& embedding, std::int64_t head_size);

}  // namespace bipo
