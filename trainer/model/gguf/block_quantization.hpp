// The tensor types of GGUF files: blocks of quantised numbers, and their values as float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// The types that can be decoded; the values are those of the files (enum ggml_type in ggml.h).
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
};

// Consecutive elements of a row are stored in blocks of `elements` that take `bytes`.
struct BlockFormat {
  GgmlType type = GgmlType::kF32;
  const char* name = "";
  std::int64_t elements = 1;
  std::int64_t bytes = 4;
  void (*decode_block)(const std::byte* block, float* values) = nullptr;  // of `elements` values
};

// Returns the format of the type that files call `type`, or nullptr if it cannot be decoded.
const BlockFormat* find_block_format(std::uint32_t type);

// Returns a type's name, such as "Q4_K", also of types that cannot be decoded; the number if it is
// unknown.
std::string ggml_type_name(std::uint32_t type);

// Returns the names of the types that can be decoded: "F32, F16, ...".
std::string decodable_type_names();

// Decodes the elements [elements.begin, elements.end) of the row that begins at `row` (any
// alignment) into `values`; the range may begin and end within blocks.  Computes as ggml's
// dequantize_row_* functions (ggml-quants.c) do in float32, with every product and sum rounded, so
// that values are equal to theirs, and to those of the gguf package, bit for bit.  float64 is
// rounded.
void dequantize(const BlockFormat& format, const std::byte* row, Range elements, float* values);

}  // namespace bipo
