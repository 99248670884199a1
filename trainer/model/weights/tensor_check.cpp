#include "trainer/model/weights/tensor_check.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Shapes = std::map<std::string, std::vector<std::int64_t>>;

Shapes expected_shapes(const TensorCheck& check, const ModelConfig& config) {
  Shapes shapes;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorPlace place = check.place(role, block);
    shapes.emplace(place.name, place.shape.is_vector()
                                   ? std::vector{place.shape.rows}
                                   : std::vector{place.shape.rows, place.shape.columns});
  }
  return shapes;
}

}  // namespace

std::string tensors_are(std::size_t count) {
  return count == 1 ? "1 tensor is" : fmt::format("{} tensors are", count);
}

std::vector<std::string> check_tensors(const TensorCheck& check, const ModelConfig& config,
                                       const StoredTensors& stored) {
  const Shapes expected = expected_shapes(check, config);
  std::vector<std::string> missing;
  std::vector<std::string> unfit;
  for (const auto& [name, shape] : expected) {
    const auto found = stored.find(name);
    if (found == stored.end()) {
      missing.push_back(name);
      continue;
    }
    const StoredTensor& tensor = found->second;
    if (tensor.shape != shape) {
      unfit.push_back(fmt::format("{} in {} has shape [{}], but {} implies [{}]", name, tensor.file,
                                  fmt::join(tensor.shape, ", "), check.authority,
                                  fmt::join(shape, ", ")));
    } else if (!tensor.flaw.empty()) {
      unfit.push_back(fmt::format("{} in {} {}", name, tensor.file, tensor.flaw));
    }
  }
  std::vector<std::string> problems;
  if (!missing.empty()) {
    problems.push_back(fmt::format("{} missing, but {} asks for {}: {}",
                                   tensors_are(missing.size()), check.authority,
                                   missing.size() == 1 ? "it" : "them", fmt::join(missing, ", ")));
  }
  if (!unfit.empty()) {
    problems.push_back(fmt::format("{} not what the model needs: {}", tensors_are(unfit.size()),
                                   fmt::join(unfit, "; ")));
  }
  if (!problems.empty()) {
    throw UserError(fmt::format(
        "{}: {}.  Weights and configuration do not belong together, or files are incomplete: get "
        "the model again",
        check.model, fmt::join(problems, "; and ")));
  }
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : stored) {
    if (!expected.contains(name)) {
      extra.push_back(name);
    }
  }
  return extra;
}

}  // namespace bipo
