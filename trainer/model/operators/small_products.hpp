// Products of small float32 matrices on the CPU, for one thread: where a call of a general product
// would cost more than the work.
#pragma once

#include <cstdint>

#include "trainer/model/operators/cpu_kernels.hpp"

namespace bipo::small {

// A matrix as an operand of a product.
struct Operand {
  kernels::ConstColumns matrix;
  bool is_transposed = false;
};

// c [m, n] = a [m, k] b [k, n] + beta c, row-major, for beta 0 or 1.  An element's sum has the same
// order whatever m and n are.
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, float beta,
              kernels::Columns c);

}  // namespace bipo::small
