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
  for (const at::Tensor& sum : sums_) {
    if (sum.defined()) {
      contributions.push_back(sum.to(pass_.device));
    }
  }
  return exact_sum(contributions, pass_.hidden, pass_.device, pass_.shares, *pass_.ranks->dp);
}

}  // namespace bipo
