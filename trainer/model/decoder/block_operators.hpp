// What all blocks do around their matrix products, sharded over a tensor-parallel group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "collectives/communicator.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/decoder/resident_weights.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// T tokens, D hidden.  `config` and `tp` must outlive the object, `tp` also the backward passes of
// its results.  Collective over: tp, here and in the backward pass.
class BlockOperators {
 public:
  // `product_type`: of the matrix products.
  BlockOperators(const ModelConfig& config, at::ScalarType product_type, Communicator& tp)
      : config_(config), product_type_(product_type), tp_(tp) {}

  at::ScalarType product_type() const { return product_type_; }

  // Whether this rank has all heads.
  bool has_all_heads() const { return tp_.size() == 1; }

  // Whether our own kernels write the inputs of products that begin from `x` in bfloat16, which the
  // products take.
  bool narrows(const at::Tensor& x) const;

  // Returns the norm of h [T, D], or h itself if its weight is undefined, as the input of products
  // whose outputs are local.
  at::Tensor normed(const at::Tensor& h, const NormWeights& norm) const;

  // The same for products only, in the products' type where narrows().
  at::Tensor product_input(const at::Tensor& h, const NormWeights& norm) const;

  // Returns the norm of x [T, C] together with the columns of the other ranks.  Of all ranks, each
  // of the `total` columns is among the `counted` of exactly one.
  at::Tensor normed_together(const at::Tensor& x, const at::Tensor& weight, Range counted,
                             std::int64_t total) const;

  // Returns residual + s norm(x W^T + bias), with the product summed over the group; bias and norm
  // may be undefined; s is the configuration's scale.
  at::Tensor project_onto(const at::Tensor& residual, const at::Tensor& x,
                          const FrozenWeight& weight, const at::Tensor& bias,
                          const at::Tensor& norm) const;

  // The same in two steps, with room for a change between them: x W^T + bias, and residual +
  // s norm(x) for whole rows x [T, D].  Last bits may differ from project_onto()'s.
  at::Tensor project(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias) const;
  at::Tensor add_branch(const at::Tensor& residual, const at::Tensor& x,
                        const at::Tensor& norm) const;

 private:
  at::Tensor normed(const at::Tensor& h, const NormWeights& norm, bool narrow) const;

  const ModelConfig& config_;
  at::ScalarType product_type_;
  Communicator& tp_;
};

}  // namespace bipo
