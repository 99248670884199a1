// Checks a model's tensors against its configuration, and its numbers for NaN and infinity.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// A tensor as its file describes it.
struct StoredTensor {
  std::string file;
  std::vector<std::int64_t> shape;
  std::string flaw = {};  // why its numbers cannot be used, e.g. "is of type Int"; empty: they can
};

// By name.
using StoredTensors = std::map<std::string, StoredTensor>;

struct TensorCheck {
  std::string model;      // the directory or file, for messages
  std::string authority;  // what lists the tensors: "config.json", "the metadata"
  // Where the files keep each weight.
  std::function<TensorPlace(Role role, std::int64_t block)> place;
  std::string remark = {};  // ends the error: what the files have instead; may be empty
};

// Throws one UserError that names every tensor that is missing, has another shape than the
// configuration implies, or cannot be used.  Returns the names of the tensors that the model does
// not use.
std::vector<std::string> check_tensors(const TensorCheck& check, const ModelConfig& config,
                                       const StoredTensors& stored);

// Returns "1 tensor is", "3 tensors are".
std::string tensors_are(std::size_t count);

// Counts the NaN and infinite numbers in part `part` of `parts` of the rows of each weight, in the
// order of weights_of(): ranks share the work, and their counts add up.  Reads every row once, in
// pieces of bounded size.
std::vector<std::int64_t> count_non_finite(const WeightSource& weights, const ModelConfig& config,
                                           std::int64_t parts, std::int64_t part);

// Throws UserError, naming file, tensor and count of each affected tensor, unless all `counts` are
// 0.
void require_finite(const WeightSource& weights, const ModelConfig& config,
                    const std::vector<std::int64_t>& counts);

}  // namespace bipo
