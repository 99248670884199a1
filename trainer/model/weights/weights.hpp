// Where a model's weights come from, read slice by slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // This slice of the tensor that plays `role` in `block`, in CPU memory and the type it is stored
  // in.
  virtual at::Tensor read(Role role, std::int64_t block, const Slice& slice) const = 0;

  // File and name of the tensor that this weight is read from, for messages.
  virtual std::string place(Role role, std::int64_t block) const = 0;

  // What is odd about the files but does no harm, one sentence each.
  virtual std::vector<std::string> warnings() const { return {}; }

  // Identifies the weights by names, types, shapes and samples of the data: equal for equal files.
  virtual std::uint64_t fingerprint() const = 0;
};

// The safetensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names (plain file names only, so that no index leads out of the
// directory).  Throws UserError unless every tensor the configuration asks for is there, in a
// floating-point type and with the shape that follows from the configuration, and every tensor of
// the index where it says.  Tensors that nothing asks for are warned about, but for those that
// older programs stored beside the weights although they follow from the configuration, and a head
// that is the embedding.
std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               const ModelConfig& config);

}  // namespace bipo
