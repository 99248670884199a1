// Holds the tensors in a model's files against those that its configuration asks for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/names.hpp"

namespace bipo {

// What a file says of a tensor.
struct StoredTensor {
  std::string file;
  std::vector<std::int64_t> shape;
  std::string flaw = {};  // why its numbers cannot be used, e.g. "is of type Int"; empty: they can
};

// By name.
using StoredTensors = std::map<std::string, StoredTensor>;

struct TensorCheck {
  std::string model;      // the directory or file, for messages
  std::string authority;  // what asks for the tensors: "config.json", "the metadata"
  // Where the files keep each weight.
  std::function<TensorPlace(Role role, std::int64_t block)> place;
};

// Throws one UserError that names every tensor which is missing, every one whose shape is another
// than the configuration implies, and every one that cannot be used.  Returns the names of the
// tensors that nothing asks for.
std::vector<std::string> check_tensors(const TensorCheck& check, const ModelConfig& config,
                                       const StoredTensors& stored);

// "1 tensor is", "3 tensors are".
std::string tensors_are(std::size_t count);

}  // namespace bipo
