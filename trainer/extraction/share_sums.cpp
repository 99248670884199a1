#include "trainer/extraction/share_sums.hpp"

#include <ATen/ATen.h>

#include "collectives/exact_sum.hpp"

namespace bipo {

ShareSums::ShareSums(const LayerPass& pass)
    : pass_(pass), sums_(static_cast<std::size_t>(pass.shares)) {
}

void ShareSums::add(std::int64_t share, const at::Tensor& term) {
  at::Tensor& sum = sums_[static_cast<std::size_t>(share)];
  sum = sum.defined() ? sum + term : term;
}

at::Tensor ShareSums::total() const {
  std::vector<at::Tensor> contributions;
  // exact_sum() adds those of a lone replica on the host.
  const at::Device place = pass_.ranks->dp->size() == 1 ? at::Device(at::kCPU) : pass_.device;
  for (const at::Tensor& sum : sums_) {
    if (sum.defined()) {
      contributions.push_back(sum.to(place));
    }
  }
  return exact_sum(contributions, pass_.hidden, pass_.device, pass_.shares, *pass_.ranks->dp);
}

}  // namespace bipo
