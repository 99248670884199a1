// Tensors on standard output, each as a line of JSON followed by its bytes: what tensor_stream.py
// reads.
#pragma once

#include <ATen/core/Tensor.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

namespace bipo::testing {

// A contiguous tensor in CPU memory.
inline void print_tensor(const std::string& name, const at::Tensor& tensor) {
  const nlohmann::json line = {{"name", name},
                               {"type", c10::toString(tensor.scalar_type())},
                               {"shape", tensor.sizes().vec()},
                               {"bytes", tensor.nbytes()}};
  std::cout << line.dump() << '\n';
  std::cout.write(static_cast<const char*>(tensor.const_data_ptr()),
                  static_cast<std::streamsize>(tensor.nbytes()));
}

}  // namespace bipo::testing
