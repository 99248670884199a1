#include "trainer/cache/residual_scale.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>

namespace bipo {
namespace {

double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle),
                   values.end());
  const double upper = values[middle];
  if (values.size() % 2 == 1) {
    return upper;
  }
  return (*std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle)) +
          upper) /
         2;
}

}  // namespace

at::Tensor token_rms(const at::Tensor& h) {
  return h.to(at::kDouble).square().mean(-1).sqrt().to(at::kCPU);
}

double shared_median(const std::vector<double>& rms, at::Device device, const Ranks& ranks) {
  const at::Tensor all = at::tensor(rms, at::kDouble).to(device);
  // Every element is non-zero on one replica only: the sum is exact in any order.
  ranks.dp->all_reduce(all, ReduceOp::kSum);
  ranks.tp->broadcast(all, 0);
  const at::Tensor on_host = all.cpu();
  const double* values = on_host.const_data_ptr<double>();
  return median({values, values + on_host.numel()});
}

}  // namespace bipo
