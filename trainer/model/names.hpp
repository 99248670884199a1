// Maps the decoder's weights to the tensors of Hugging Face checkpoints.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/config.hpp"
#include "trainer/model/sharding.hpp"

namespace bipo {

// Rows of a checkpoint's tensor.
struct TensorPlace {
  std::string name;
  std::int64_t first_row = 0;  // of the role's rows; other than 0 in fused tensors only
  TensorShape shape;           // of the whole tensor
};

// Where the weight stands that plays `role` in block `block` (ignored for embedding, final norm and
// head).
TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

}  // namespace bipo
