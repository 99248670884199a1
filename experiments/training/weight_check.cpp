#include "experiments/training/weight_check.hpp"

#include <ATen/ops/tensor.h>

#include <optional>

#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

// Returns the sums over the ranks of `node`.  Collective over: node
std::vector<std::int64_t> summed(const std::vector<std::int64_t>& counts, Communicator& node) {
  const at::Tensor sums = at::tensor(counts, at::kLong);
  node.all_reduce(sums, ReduceOp::kSum);
  const auto* begin = sums.const_data_ptr<std::int64_t>();
  return {begin, begin + sums.numel()};
}

}  // namespace

void check_weights(const std::vector<const TrainingInputs*>& models, Session& session) {
  const Topology all(session.size(), session.rank(), /*tp=*/1, std::nullopt);
  const Ranks ranks = session.make_ranks(all, /*cuda=*/false);
  for (const TrainingInputs* model : models) {
    const std::vector<std::int64_t> counts = summed(
        count_non_finite(*model->weights, model->config, ranks.node->size(), ranks.node->rank()),
        *ranks.node);
    session.together([&] { require_finite(*model->weights, model->config, counts); });
  }
}

}  // namespace bipo
