// Maps the decoder's weights to the tensor names of Hugging Face checkpoints.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/sharding.hpp"

namespace bipo {

// Name of the tensor that plays `role` in block `block` (ignored for embedding, final norm and
// head).
std::string tensor_name(Role role, std::int64_t block = 0);

}  // namespace bipo
