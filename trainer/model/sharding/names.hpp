// Maps the decoder's weights to tensors, and names the tensors of Hugging Face checkpoints.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Names of tensors by role, with {} in place of the block's number.
struct RoleName {
  Role role;
  const char* name;
};
using RoleNames = std::array<RoleName, kRoles>;

std::string name_of(const RoleNames& names, Role role, std::int64_t block);

// Rows of a checkpoint's tensor.
struct TensorPlace {
  std::string name;
  std::int64_t first_row = 0;  // of the role's rows; 0 except in fused tensors
  TensorShape shape;           // of the whole tensor
};

// The names that a kind of file has for the tensor of one role, and for the tensors that hold
// several roles if the model has fused projections.
struct TensorNames {
  std::string own;
  std::string query_key_value;
  std::string gate_up;
};

// Finds `role` among the tensors of these names.
TensorPlace place_in(const ModelConfig& config, Role role, const TensorNames& names);

// Finds the weight that plays `role` in block `block` (ignored outside blocks) in a Hugging Face
// checkpoint.
TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

}  // namespace bipo
