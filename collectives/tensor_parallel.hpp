// The pair of autograd functions through which a tensor-parallel group enters and leaves a sharded
// region (Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3: f and g).
#pragma once

#include <ATen/core/Tensor.h>

#include "collectives/communicator.hpp"

namespace bipo {

// f: the identity forward, an all-reduce of the gradient backward.  `x` is the same on every tp
// rank and is an operand of products with weights whose rows are sharded.  `tp` must outlive the
// backward pass, which communicates.  Collective over: tp (in the backward pass)
at::Tensor copy_to_tensor_parallel(const at::Tensor& x, Communicator& tp);

// g: an all-reduce forward, the identity backward.  `x` is this rank's partial sum, from products
// with weights whose columns are sharded.  A contiguous `x` becomes the result itself.  Collective
// over: tp
at::Tensor reduce_from_tensor_parallel(const at::Tensor& x, Communicator& tp);

}  // namespace bipo
