// Maps the decoder's weights to tensors, and names the tensors of Hugging Face checkpoints.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

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
  // Where the rows are apart: so many follow each other, and the next so many begin `stride` rows
  // behind their first; 0: all follow each other.
  std::int64_t together = 0;
  std::int64_t stride = 0;

  // Returns where the tensor has these rows of the role, in their order.
  std::vector<Range> rows_in_tensor(Range rows) const;
};

// The names that a kind of file has for the tensor of one role, and for the tensors that hold
// several roles if the model has fused projections.
struct TensorNames {
  std::string own;
  std::string query_key_value;
  std::string query_key_value_bias;
  std::string gate_up;
};

// Finds `role` of block `block` (ignored outside blocks) among the tensors of these names.
TensorPlace place_in(const ModelConfig& config, Role role, std::int64_t block,
                     const TensorNames& names);

// Finds the weight that plays `role` in block `block` (ignored outside blocks) in a Hugging Face
// checkpoint.
TensorPlace tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

// What transformers' class for a model has where tensor_place() has "model." and "lm_head.weight".
struct ClassNames {
  std::string decoder = "model.";
  std::vector<std::string> heads = {"lm_head.weight"};  // that of 5.23 first
};
ClassNames class_names(const ModelConfig& config);

// The same under the name that the weight's parameter has in transformers' class for the model: in
// a wrapper the text part is a module inside.
TensorPlace parameter_place(const ModelConfig& config, Role role, std::int64_t block = 0);

}  // namespace bipo
