#include "collectives/number_reduction.hpp"

#include <ATen/ops/full.h>

namespace bipo {
namespace {

template <typename Number>
Number reduced(Number value, at::ScalarType type, ReduceOp op, Communicator& group) {
  const at::Tensor number = at::full({1}, value, type);
  group.all_reduce(number, op);
  return number.item<Number>();
}

}  // namespace

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
