#include "trainer/model/decoder/block_operators.hpp"

#include <ATen/ATen.h>

#include "collectives/tensor_parallel.hpp"
#include "trainer/model/operators/compiled_operators.hpp"

namespace bipo {

bool BlockOperators::narrows(const at::Tensor& x) const {
  return product_type_ == at::kBFloat16 && runs_compiled(x);
}

at::Tensor BlockOperators::normed(const at::Tensor& h, const NormWeights& norm) const {
  return normed(h, norm, /*narrow=*/false);
}

at::Tensor BlockOperators::product_input(const at::Tensor& h, const NormWeights& norm) const {
  // The gradients of several ranks are added, in the residual stream's type.
  return normed(h, norm, narrows(h) && tp_.size() == 1);
}

at::Tensor BlockOperators::normed(const at::Tensor& h, const NormWeights& norm, bool narrow) const {
  const double epsilon = config_.norm_epsilon;
  const at::Tensor x = !norm.weight.defined() ? h
                       : config_.norm == Norm::kLayer
                           ? layer_norm(h, norm.weight, norm.bias, epsilon, narrow)
                           : rms_norm(h, norm.weight, epsilon, narrow);
  return copy_to_tensor_parallel(x, tp_);
}

at::Tensor BlockOperators::normed_together(const at::Tensor& x, const at::Tensor& weight,
                                           Range counted, std::int64_t total) const {
  if (tp_.size() == 1) {
    return rms_norm(x.contiguous(), weight, config_.norm_epsilon);
  }
  const at::Tensor local =
      x.narrow(1, counted.begin, counted.size()).square().sum(1, /*keepdim=*/true);
  // Every rank scales its columns by the sum, so that the gradient of the sum is a sum as well.
  const at::Tensor sum = copy_to_tensor_parallel(reduce_from_tensor_parallel(local, tp_), tp_);
  return x * (sum / static_cast<double>(total) + config_.norm_epsilon).rsqrt() * weight;
}

at::Tensor BlockOperators::project_onto(const at::Tensor& residual, const at::Tensor& x,
                                        const FrozenWeight& weight, const at::Tensor& bias,
                                        const at::Tensor& norm) const {
  const double scale = config_.residual_scale;
  if (tp_.size() == 1 && !bias.defined() && !norm.defined() && scale == 1) {
    return frozen_linear_onto(residual, x, weight);
  }
  return add_onto(residual, reduce_from_tensor_parallel(frozen_linear(x, weight), tp_),
                  {bias, norm, config_.norm_epsilon, scale});
}

at::Tensor BlockOperators::project(const at::Tensor& x, const FrozenWeight& weight,
                                   const at::Tensor& bias) const {
  const at::Tensor product = reduce_from_tensor_parallel(frozen_linear(x, weight), tp_);
  return bias.defined() ? product + bias : product;
}

at::Tensor BlockOperators::add_branch(const at::Tensor& residual, const at::Tensor& x,
                                      const at::Tensor& norm) const {
  return add_onto(residual, x, {{}, norm, config_.norm_epsilon, config_.residual_scale});
}

}  // namespace bipo
