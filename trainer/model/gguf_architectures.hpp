// The architectures of GGUF files that this program runs, and their tensors' names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/model/sharding.hpp"

namespace bipo {

// What distinguishes one architecture's files from another's.
struct GgufArchitecture {
  const char* name;           // general.architecture, and what its metadata keys begin with
  const char* model_class;    // ModelConfig::architecture
  bool adjacent_rotary_rows;  // the two rows of a rotated pair of the query and key products stand
                              // side by side, where Hugging Face has them half a head apart
};

// nullptr for those that are not supported.
const GgufArchitecture* find_gguf_architecture(std::string_view name);

// "llama, ..."
std::string supported_gguf_architectures();

// Name of the tensor that plays `role` in block `block` (ignored outside blocks).
std::string gguf_tensor_name(Role role, std::int64_t block = 0);

// Divides the rotary frequencies, [K / 2]; present where the model rescales them one by one.
inline constexpr const char* kGgufRopeDivisors = "rope_freqs.weight";

}  // namespace bipo
