#include "collectives/communicator.hpp"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"
#include "collectives/profile.hpp"

namespace bipo {

void Communicator::check(const at::Tensor& tensor, std::string_view operation) const {
  const auto type = tensor.scalar_type();
  const bool known_type =
      type == at::kFloat || type == at::kDouble || type == at::kLong || type == at::kByte;
  if (!known_type || !tensor.is_contiguous() || !moves_memory_of(tensor.device())) {
    throw BugError(fmt::format("{} over {}: tensor of type {} on {} ({}contiguous) is not accepted",
                               operation, backend(), c10::toString(type), tensor.device().str(),
                               tensor.is_contiguous() ? "" : "not "));
  }
}

void Communicator::all_reduce(const at::Tensor& tensor, ReduceOp op) {
  check(tensor, "all_reduce");
  if (tensor.numel() > 0) {
    const WorkTimer timer(Work::kCollectives);
    do_all_reduce(tensor, op);
  }
}

void Communicator::broadcast(const at::Tensor& tensor, int root) {
  check(tensor, "broadcast");
  if (root < 0 || root >= size()) {
    throw BugError(fmt::format("broadcast over {}: root {} of {}", backend(), root, size()));
  }
  if (tensor.numel() > 0) {
    const WorkTimer timer(Work::kCollectives);
    do_broadcast(tensor, root);
  }
}

at::Tensor Communicator::all_gather(const at::Tensor& tensor) {
  check(tensor, "all_gather");
  auto shape = tensor.sizes().vec();
  shape.insert(shape.begin(), size());
  at::Tensor gathered = at::empty(shape, tensor.options());
  if (tensor.numel() > 0) {
    const WorkTimer timer(Work::kCollectives);
    do_all_gather(tensor, gathered);
  }
  return gathered;
}

}  // namespace bipo
