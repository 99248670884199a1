#include "trainer/model/operators/head_blocks.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace bipo {

std::int64_t head_block_size(const at::Tensor& head) {
  constexpr std::int64_t kCachedElements = 1 << 21;
  constexpr std::int64_t kDeviceBlock = 1 << 15;
  return head.is_cpu() ? std::max<std::int64_t>(1024, kCachedElements / head.size(1))
                       : kDeviceBlock;
}

at::Tensor head_product(const at::Tensor& x, const at::Tensor& y) {
  if (x.scalar_type() == y.scalar_type()) {
    return at::mm(x, y);
  }
  return at::mm(x.to(y.scalar_type()), y, x.scalar_type());
}

void SoftCap::apply(const at::Tensor& logits) const {
  if (cap != 0) {
    logits.div_(cap).tanh_().mul_(cap);
  }
}

at::Tensor SoftCap::slopes(const at::Tensor& capped) const {
  return cap == 0 ? at::Tensor() : 1 - (capped / cap).square_();
}

}  // namespace bipo
