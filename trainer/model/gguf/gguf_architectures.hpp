// The architectures of GGUF files that this program runs, and the names of their tensors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/sharding/names.hpp"

namespace bipo {

// How the files of one architecture differ from those of another.
struct GgufArchitecture {
  const char* name;           // general.architecture, and the beginning of its metadata keys
  const char* family;         // Family::architecture
  bool adjacent_rotary_rows;  // in query and key products, the two rows of a rotated pair are next
                              // to each other; in Hugging Face files they are half a head apart
  bool mlp_norm_is_post_attention = false;  // by its name
};

// Throws UserError for a file of another architecture, naming those that are supported, and for
// files that hold no model (adapters, projectors).
const GgufArchitecture& architecture_of(const GgufFile& file);

// Returns the architecture that files call `name`, or nullptr.
const GgufArchitecture* find_gguf_architecture(std::string_view name);

// Returns where row `row` of a weight is among the rows of its role in block `block` of the file.
std::int64_t row_in_gguf(const GgufArchitecture& architecture, const ModelConfig& config, Role role,
                         std::int64_t block, std::int64_t row);

// Returns the name of the tensor of a role's own.
std::string gguf_tensor_name(Role role, std::int64_t block);

// Returns where a value head of a recurrent block is among those of the file: first the first head
// of every key head, then the second of every one.  Hugging Face files have the heads of a key head
// together.
std::int64_t value_head_in_gguf(const DeltaNetSizes& sizes, std::int64_t head);

// Finds the weight that plays `role` in block `block` (ignored outside blocks).
TensorPlace gguf_tensor_place(const ModelConfig& config, Role role, std::int64_t block = 0);

inline constexpr const char* kGgufEmbedding = "token_embd.weight";
inline constexpr const char* kGgufHead = "output.weight";

// Divisors of the rotary frequencies, [R / 2], in models that rescale them one by one; the last two
// are those of LongRoPE within and beyond the original context.
inline constexpr const char* kGgufRopeDivisors = "rope_freqs.weight";
inline constexpr const char* kGgufShortRopeDivisors = "rope_factors_short.weight";
inline constexpr const char* kGgufLongRopeDivisors = "rope_factors_long.weight";

}  // namespace bipo
