// Maps the decoder's weights to tensors, and names those of Hugging Face checkpoints.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Rows of a checkpoint's tensor.
struct TensorPlace {
  std::string name;
  std::int64_t first_row = 0;  // of the role's rows; other than 0 in fused tensors only
  TensorShape shape;           // of the whole tensor
};

// What a kind of file calls the tensor of one role, and those that hold its role among others where
// the model has fused projections.
struct TensorNames {
  std::string own;
  std::string query_key_value;
  std::string gate_up;
};

// The tensor of these names that holds `role`, and where.
TensorPlace place_in(const ModelConfig& config, Role role, const TensorNames& names);

// Where the weight stands that plays `role` in block `block` (ignored for embedding, final norm and
// head).
TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

}  // namespace bipo
