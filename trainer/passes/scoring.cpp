#include "trainer/passes/scoring.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "datasets/batches/batch_plan.hpp"

namespace bipo {

void for_each_group(const ScoringContext& context, std::int64_t items,
                    const std::function<void(const std::vector<std::int64_t>& group)>& visit) {
  const auto groups = consecutive_groups(items, context.group_size);
  const auto count = static_cast<std::int64_t>(groups.size());
  const std::int64_t replicas = context.ranks.topology.dp();
  for (std::int64_t g = context.ranks.topology.dp_rank(); g < count; g += replicas) {
    visit(groups[static_cast<std::size_t>(g)]);
    if (context.progress) {
      context.progress(std::min(count, g + replicas), count);
    }
  }
}

void share_values(double* values, std::int64_t count, at::Device device, const Ranks& ranks) {
  if (ranks.dp->size() == 1 && ranks.tp->size() == 1) {
    return;
  }
  const at::Tensor on_host = at::from_blob(values, {count}, at::kDouble);
  const at::Tensor table = on_host.to(device, at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  // Every element is non-zero on one replica only: the sum is exact in any order.
  ranks.dp->all_reduce(table, ReduceOp::kSum);
  // The tp ranks' values may differ in the last bits; what is derived from them must not.
  ranks.tp->broadcast(table, 0);
  on_host.copy_(table);
}

}  // namespace bipo
