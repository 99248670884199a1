#include "collectives/exact_sum.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <tuple>

#include "collectives/foundation/errors.hpp"
#include "collectives/self_communicator.hpp"

namespace bipo {
namespace {

// Bits of an int64 for a sum; of the other two, one is the sign and one leaves room for rounding.
constexpr int kSumBits = 62;

int bits_for(std::int64_t count) {
  return count <= 1 ? 0 : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(count - 1)));
}

// Returns the exponent e such that `count` terms of magnitude up to `largest`, times 2^e, add up to
// less than 2^62.
int scale_exponent(double largest, std::int64_t count) {
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  return kSumBits - bits_for(count) - exponent;
}

// Returns 2^(s - e), the same kind of scale, for each of `largest` [M] < 2^e; NaN where that is
// infinite.  The quotient of a number's mantissa and the number is a power of two, so that every
// product here is exact.
at::Tensor scales_of(const at::Tensor& largest, std::int64_t count) {
  const at::Tensor positive = at::where(largest.gt(0), largest, at::ones_like(largest));
  const at::Tensor mantissa = std::get<0>(at::frexp(positive));
  return mantissa.div_(positive).mul_(std::ldexp(1.0, kSumBits - bits_for(count)));
}

}  // namespace

at::Tensor exact_sum(const std::vector<at::Tensor>& contributions, std::int64_t n,
                     at::Device device, std::int64_t total_contributions, Communicator& group) {
  if (group.size() == 1 && !device.is_cpu()) {  // the device would be waited for twice
    std::vector<at::Tensor> on_host;
    for (const at::Tensor& term : contributions) {
      on_host.push_back(term.cpu());
    }
    SelfCommunicator alone;
    return exact_sum(on_host, n, at::kCPU, total_contributions, alone);
  }
  const auto doubles = at::TensorOptions().dtype(at::kDouble).device(device);
  // {largest magnitude, 1 if an element is not finite}
  const at::Tensor extent = at::zeros({2}, doubles);
  for (const at::Tensor& term : contributions) {
    if (term.dim() != 1 || term.numel() != n) {
      throw BugError(
          fmt::format("exact_sum: contribution of {} elements, expected {}", term.numel(), n));
    }
    const at::Tensor magnitude = term.abs().max().to(at::kDouble);
    const at::Tensor finite = at::isfinite(magnitude);
    extent[0].copy_(at::maximum(extent[0], at::where(finite, magnitude, 0.0)));
    extent[1].copy_(at::maximum(extent[1], at::where(finite, 0.0, 1.0).to(at::kDouble)));
  }
  group.all_reduce(extent, ReduceOp::kMax);
  const at::Tensor agreed = extent.cpu();
  if (agreed[1].item<double>() != 0) {
    return at::full({n}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  }
  const double largest = agreed[0].item<double>();
  if (largest == 0) {
    return at::zeros({n}, at::kDouble);
  }
  const int exponent = scale_exponent(largest, total_contributions);
  const at::Tensor sum = at::zeros({n}, at::TensorOptions().dtype(at::kLong).device(device));
  for (const at::Tensor& term : contributions) {
    sum.add_(at::round(term.to(at::kDouble) * std::ldexp(1.0, exponent)).to(at::kLong));
  }
  group.all_reduce(sum, ReduceOp::kSum);
  return sum.cpu().to(at::kDouble) * std::ldexp(1.0, -exponent);
}

at::Tensor exact_sums(const at::Tensor& contributions, std::int64_t total_contributions,
                      Communicator& group) {
  const at::Tensor terms = contributions.to(at::kDouble);
  const std::int64_t count = terms.size(0);
  // A maximum over ranks may lose a NaN, but no infinity.
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor largest =
      count == 0 ? at::zeros({terms.size(1)}, terms.options())
                 : at::nan_to_num(at::amax(terms.abs(), {0, 2}), infinity, infinity, infinity);
  group.all_reduce(largest, ReduceOp::kMax);
  const at::Tensor scale = scales_of(largest, total_contributions).unsqueeze(1);
  const at::Tensor integers = at::round(terms * scale).to(at::kLong);
  const at::Tensor sum = count == 1 ? integers.squeeze(0) : integers.sum(0);
  group.all_reduce(sum, ReduceOp::kSum);
  return sum.to(at::kDouble) / scale;
}

}  // namespace bipo
