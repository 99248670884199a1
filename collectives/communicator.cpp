#include "collectives/communicator.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"
#include "collectives/profile.hpp"

namespace bipo {
namespace {

template <typename Number>
Number reduced(Number value, at::ScalarType type, ReduceOp op, Communicator& group) {
  const at::Tensor number = at::full({1}, value, type);
  group.all_reduce(number, op);
  return number.item<Number>();
}

}  // namespace

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

std::int64_t all_reduced(std::int64_t value, ReduceOp op, Communicator& group) {
  return reduced(value, at::kLong, op, group);
}

std::uint64_t all_reduced(std::uint64_t value, ReduceOp op, Communicator& group) {
  return static_cast<std::uint64_t>(all_reduced(static_cast<std::int64_t>(value), op, group));
}

double all_reduced(double value, ReduceOp op, Communicator& group) {
  return reduced(value, at::kDouble, op, group);
}

bool holds_on_all(bool value, Communicator& group) {
  return all_reduced(std::int64_t{value}, ReduceOp::kMin, group) != 0;
}

}  // namespace bipo
