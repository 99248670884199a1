// Where a model's weights come from, read slice by slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <string>

#include "trainer/model/config.hpp"
#include "trainer/model/sharding.hpp"

namespace bipo {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // This slice of the tensor that plays `role` in `block`, in CPU memory and the type it is stored
  // in.
  virtual at::Tensor read(Role role, std::int64_t block, const Slice& slice) const = 0;

  // Identifies the weights by names, types, shapes and samples of the data: equal for equal files.
  virtual std::uint64_t fingerprint() const = 0;
};

// The safetensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names (plain file names only, so that no index leads out of the
// directory). Checks on opening that every tensor the configuration asks for is there, in a
// floating-point type and with the shape that follows from the configuration.  Throws UserError.
std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               const ModelConfig& config);

}  // namespace bipo
