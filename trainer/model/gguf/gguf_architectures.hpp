// The architectures of GGUF files that this program runs, and their tensors' names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/model/sharding/names.hpp"

namespace bipo {

// What distinguishes one architecture's files from another's.
struct GgufArchitecture {
  const char* name;           // general.architecture, and what its metadata keys begin with
  const char* family;         // Family::architecture
  bool adjacent_rotary_rows;  // the two rows of a rotated pair of the query and key products stand
                              // side by side, where Hugging Face has them half a head apart
};

// nullptr for those that are not supported.
const GgufArchitecture* find_gguf_architecture(std::string_view name);

// "llama, ..."
std::string supported_gguf_architectures();

// Where the weight stands that plays `role` in block `block` (ignored outside blocks).
TensorPlace gguf_tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

inline constexpr const char* kGgufEmbedding = "token_embd.weight";
inline constexpr const char* kGgufHead = "output.weight";

// Divide the rotary frequencies, [R / 2]; present where the model rescales them one by one, the
// latter two in LongRoPE within and beyond the original context.
inline constexpr const char* kGgufRopeDivisors = "rope_freqs.weight";
inline constexpr const char* kGgufShortRopeDivisors = "rope_factors_short.weight";
inline constexpr const char* kGgufLongRopeDivisors = "rope_factors_long.weight";

}  // namespace bipo
