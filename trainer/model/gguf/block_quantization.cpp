#include "trainer/model/gguf/block_quantization.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "trainer/model/gguf/block_bytes.hpp"
#include "trainer/model/gguf/codebook_quantization.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kSmall = 32;   // elements of a block of Q4_0 and its like
constexpr std::int64_t kSuper = 256;  // elements of a K-quant's block
constexpr std::int64_t kLargestBlock = kSuper;

struct TypeName {
  std::uint32_t type;
  const char* name;
};

// Types that cannot be decoded, for messages.  Q8_1 and Q8_K exist during computations only, the
// gguf package cannot decode Q1_0, and newer versions of llama.cpp have withdrawn the others.
constexpr TypeName kOtherNames[] = {
    {4, "Q4_2"},      {5, "Q4_3"},        {9, "Q8_1"},        {15, "Q8_K"},       {24, "I8"},
    {25, "I16"},      {26, "I32"},        {27, "I64"},        {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},
    {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {41, "Q1_0"},
};

void decode_q8_0(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const std::byte* quants = block + 2;
  for (std::int64_t i = 0; i < kSmall; ++i) {
    values[i] = static_cast<float>(load_at<std::int8_t>(quants + i)) * scale;
  }
}

// In the 4-bit and 5-bit blocks of 32, byte i holds the low bits of elements i and i + 16.
void decode_q4_0(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const std::byte* quants = block + 2;
  for (std::int64_t i = 0; i < kSmall / 2; ++i) {
    const auto both = static_cast<int>(byte_at(quants, i));
    values[i] = scale * static_cast<float>((both & 15) - 8);
    values[i + kSmall / 2] = scale * static_cast<float>((both >> 4) - 8);
  }
}

void decode_q4_1(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  const std::byte* quants = block + 4;
  for (std::int64_t i = 0; i < kSmall / 2; ++i) {
    const std::uint32_t both = byte_at(quants, i);
    values[i] = scale * static_cast<float>(both & 15U) + minimum;
    values[i + kSmall / 2] = scale * static_cast<float>(both >> 4) + minimum;
  }
}

// Returns the 5-bit quants of a block of 32: the fifth bit of element i is bit i of `high`.
std::array<int, kSmall> five_bit_quants(const std::byte* high_bits, const std::byte* low_bits) {
  const auto high = load_at<std::uint32_t>(high_bits);
  std::array<int, kSmall> quants{};
  for (std::uint32_t i = 0; i < kSmall; ++i) {
    const std::uint32_t both = byte_at(low_bits, i % (kSmall / 2));
    const std::uint32_t low = i < kSmall / 2 ? both & 15U : both >> 4;
    quants[i] = static_cast<int>(low | ((high >> i) & 1U) << 4);
  }
  return quants;
}

void decode_q5_0(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const auto quants = five_bit_quants(block + 2, block + 6);
  for (std::size_t i = 0; i < quants.size(); ++i) {
    values[i] = scale * static_cast<float>(quants[i] - 16);
  }
}

void decode_q5_1(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  const auto quants = five_bit_quants(block + 4, block + 8);
  for (std::size_t i = 0; i < quants.size(); ++i) {
    values[i] = scale * static_cast<float>(quants[i]) + minimum;
  }
}

constexpr std::int64_t kGroup = 32;  // elements of a K-quant that share a scale and a minimum

struct ScaleAndMinimum {
  float scale;
  float minimum;
};

// Returns the 6-bit scale and minimum of one of the eight groups in Q4_K and Q5_K.  The first four
// groups have them in the low six bits of bytes 0..3 and 4..7; the others have the low four bits in
// bytes 8..11 and the upper two bits above those of the first four.
ScaleAndMinimum group_scale(const std::byte* block, std::int64_t group) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  const std::byte* packed = block + 4;
  if (group < 4) {
    return {scale * static_cast<float>(byte_at(packed, group) & 63U),
            minimum * static_cast<float>(byte_at(packed, group + 4) & 63U)};
  }
  const std::uint32_t low = byte_at(packed, group + 4);
  const std::uint32_t scale_top = byte_at(packed, group - 4) >> 6;
  const std::uint32_t minimum_top = byte_at(packed, group) >> 6;
  return {scale * static_cast<float>((low & 15U) | scale_top << 4),
          minimum * static_cast<float>((low >> 4) | minimum_top << 4)};
}

// In Q4_K and Q5_K, 32 bytes hold the low four bits of two groups, the even one in the low half of
// each byte.
void decode_q4_k(const std::byte* block, float* values) {
  const std::byte* quants = block + 16;
  for (std::int64_t group = 0; group < kSuper / kGroup; ++group) {
    const auto [scale, minimum] = group_scale(block, group);
    const std::byte* bytes = quants + group / 2 * kGroup;
    const std::int64_t shift = group % 2 * 4;
    for (std::int64_t i = 0; i < kGroup; ++i) {
      const std::uint32_t quant = (byte_at(bytes, i) >> shift) & 15U;
      *values++ = scale * static_cast<float>(quant) - minimum;
    }
  }
}

void decode_q5_k(const std::byte* block, float* values) {
  const std::byte* high_bits = block + 16;
  const std::byte* quants = high_bits + kGroup;
  for (std::int64_t group = 0; group < kSuper / kGroup; ++group) {
    const auto [scale, minimum] = group_scale(block, group);
    const std::byte* bytes = quants + group / 2 * kGroup;
    const std::int64_t shift = group % 2 * 4;
    for (std::int64_t i = 0; i < kGroup; ++i) {
      const std::uint32_t low = (byte_at(bytes, i) >> shift) & 15U;
      const std::uint32_t high = (byte_at(high_bits, i) >> group) & 1U;
      *values++ = scale * static_cast<float>(low | high << 4) - minimum;
    }
  }
}

// Each half of a Q6_K block: 64 bytes of low four bits, 32 bytes of upper two bits, and a signed
// scale for every 16 elements.
void decode_q6_k(const std::byte* block, float* values) {
  const std::byte* scales = block + 192;
  const float block_scale = half_at(block + 208);
  for (std::int64_t quarter = 0; quarter < kSuper / kGroup; ++quarter) {
    const std::int64_t half = quarter / 4;
    const std::int64_t place = quarter % 4;
    const std::byte* low_bits = block + half * 64 + place % 2 * kGroup;
    const std::byte* high_bits = block + 128 + half * kGroup;
    for (std::int64_t i = 0; i < kGroup; ++i) {
      const std::uint32_t low = (byte_at(low_bits, i) >> (place / 2 * 4)) & 15U;
      const std::uint32_t high = (byte_at(high_bits, i) >> (place * 2)) & 3U;
      const auto scale = static_cast<float>(load_at<std::int8_t>(scales + quarter * 2 + i / 16));
      *values++ = block_scale * scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    }
  }
}

constexpr std::int64_t kSmallGroup = 16;  // elements that share a scale in Q2_K and Q3_K

// Returns the two bits of element `i` of a group in Q2_K and Q3_K: 32 bytes hold eight groups, two
// beside each other at each of four shifts.
std::uint32_t two_bits_at(const std::byte* quants, std::int64_t group, std::int64_t i) {
  const std::byte* bytes = quants + group / 8 * kGroup + group % 2 * kSmallGroup;
  return (byte_at(bytes, i) >> (group / 2 % 4 * 2)) & 3U;
}

void decode_q2_k(const std::byte* block, float* values) {
  const std::byte* quants = block + 16;
  const float block_scale = half_at(block + 80);
  const float block_minimum = half_at(block + 82);
  for (std::int64_t group = 0; group < kSuper / kSmallGroup; ++group) {
    const std::uint32_t packed = byte_at(block, group);
    const float scale = block_scale * static_cast<float>(packed & 15U);
    const float minimum = block_minimum * static_cast<float>(packed >> 4);
    for (std::int64_t i = 0; i < kSmallGroup; ++i) {
      *values++ = scale * static_cast<float>(two_bits_at(quants, group, i)) - minimum;
    }
  }
}

// Returns the signed scale of one of the sixteen groups in Q3_K: its low four bits are in bytes
// 0..7, those of the first eight groups in the low halves, and its upper two bits in bytes 8..11,
// in which each fourth group is two bits further up.
float q3_k_scale(const std::byte* packed, std::int64_t group) {
  const std::uint32_t low = (byte_at(packed, group % 8) >> (group / 8 * 4)) & 15U;
  const std::uint32_t high = (byte_at(packed + 8, group % 4) >> (group / 4 * 2)) & 3U;
  return static_cast<float>(static_cast<int>(low | high << 4) - 32);
}

// A block of Q3_K: 32 bytes with the third bits, which are inverted (0 subtracts 4), then two bits
// as in Q2_K.
void decode_q3_k(const std::byte* block, float* values) {
  const std::byte* quants = block + 32;
  const float block_scale = half_at(block + 108);
  for (std::int64_t group = 0; group < kSuper / kSmallGroup; ++group) {
    const float scale = block_scale * q3_k_scale(block + 96, group);
    const std::byte* third_bits = block + group % 2 * kSmallGroup;
    for (std::int64_t i = 0; i < kSmallGroup; ++i) {
      const std::uint32_t third = (byte_at(third_bits, i) >> (group / 2)) & 1U;
      const std::uint32_t bits = two_bits_at(quants, group, i) | third << 2;
      *values++ = scale * static_cast<float>(static_cast<int>(bits) - 4);
    }
  }
}

// Appends `digits` times `count` values of -1, 0 and 1 by the scale.  A byte is a fraction of 256,
// whose ternary digits are the elements, `count` apart.
float* append_ternary(const std::byte* bytes, std::int64_t count, int digits, float scale,
                      float* values) {
  std::uint32_t power = 1;
  for (int digit = 0; digit < digits; ++digit) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t fraction = (byte_at(bytes, i) * power) & 255U;
      *values++ = scale * static_cast<float>(static_cast<int>((fraction * 3) >> 8) - 1);
    }
    power *= 3;
  }
  return values;
}

void decode_tq1_0(const std::byte* block, float* values) {
  const float scale = half_at(block + 52);
  values = append_ternary(block, 32, 5, scale, values);
  values = append_ternary(block + 32, 16, 5, scale, values);
  append_ternary(block + 48, 4, 4, scale, values);
}

void decode_tq2_0(const std::byte* block, float* values) {
  const float scale = half_at(block + 64);
  for (std::int64_t group = 0; group < kSuper / kGroup; ++group) {
    const std::byte* bytes = block + group / 4 * kGroup;
    for (std::int64_t i = 0; i < kGroup; ++i) {
      const std::uint32_t bits = (byte_at(bytes, i) >> (group % 4 * 2)) & 3U;
      *values++ = scale * static_cast<float>(static_cast<int>(bits) - 1);
    }
  }
}

void decode_f64(const std::byte* block, float* values) {
  *values = static_cast<float>(load_at<double>(block));
}

void decode_f32(const std::byte* block, float* values) {
  *values = load_at<float>(block);
}

void decode_f16(const std::byte* block, float* values) {
  *values = half_at(block);
}

void decode_bf16(const std::byte* block, float* values) {
  *values = std::bit_cast<float>(static_cast<std::uint32_t>(load_at<std::uint16_t>(block)) << 16);
}

constexpr std::array kFormats = {
    BlockFormat{GgmlType::kF32, "F32", 1, 4, decode_f32},
    BlockFormat{GgmlType::kF16, "F16", 1, 2, decode_f16},
    BlockFormat{GgmlType::kBF16, "BF16", 1, 2, decode_bf16},
    BlockFormat{GgmlType::kF64, "F64", 1, 8, decode_f64},
    BlockFormat{GgmlType::kQ8_0, "Q8_0", kSmall, 34, decode_q8_0},
    BlockFormat{GgmlType::kQ4_0, "Q4_0", kSmall, 18, decode_q4_0},
    BlockFormat{GgmlType::kQ4_1, "Q4_1", kSmall, 20, decode_q4_1},
    BlockFormat{GgmlType::kQ5_0, "Q5_0", kSmall, 22, decode_q5_0},
    BlockFormat{GgmlType::kQ5_1, "Q5_1", kSmall, 24, decode_q5_1},
    BlockFormat{GgmlType::kQ2_K, "Q2_K", kSuper, 84, decode_q2_k},
    BlockFormat{GgmlType::kQ3_K, "Q3_K", kSuper, 110, decode_q3_k},
    BlockFormat{GgmlType::kQ4_K, "Q4_K", kSuper, 144, decode_q4_k},
    BlockFormat{GgmlType::kQ5_K, "Q5_K", kSuper, 176, decode_q5_k},
    BlockFormat{GgmlType::kQ6_K, "Q6_K", kSuper, 210, decode_q6_k},
    BlockFormat{GgmlType::kIQ1_S, "IQ1_S", kSuper, 50, decode_iq1_s},
    BlockFormat{GgmlType::kIQ1_M, "IQ1_M", kSuper, 56, decode_iq1_m},
    BlockFormat{GgmlType::kIQ2_XXS, "IQ2_XXS", kSuper, 66, decode_iq2_xxs},
    BlockFormat{GgmlType::kIQ2_XS, "IQ2_XS", kSuper, 74, decode_iq2_xs},
    BlockFormat{GgmlType::kIQ2_S, "IQ2_S", kSuper, 82, decode_iq2_s},
    BlockFormat{GgmlType::kIQ3_XXS, "IQ3_XXS", kSuper, 98, decode_iq3_xxs},
    BlockFormat{GgmlType::kIQ3_S, "IQ3_S", kSuper, 110, decode_iq3_s},
    BlockFormat{GgmlType::kIQ4_NL, "IQ4_NL", kSmall, 18, decode_iq4_nl},
    BlockFormat{GgmlType::kIQ4_XS, "IQ4_XS", kSuper, 136, decode_iq4_xs},
    BlockFormat{GgmlType::kTQ1_0, "TQ1_0", kSuper, 54, decode_tq1_0},
    BlockFormat{GgmlType::kTQ2_0, "TQ2_0", kSuper, 66, decode_tq2_0},
    BlockFormat{GgmlType::kMXFP4, "MXFP4", kSmall, 17, decode_mxfp4},
    BlockFormat{GgmlType::kNVFP4, "NVFP4", 2 * kSmall, 36, decode_nvfp4},
};

}  // namespace

const BlockFormat* find_block_format(std::uint32_t type) {
  const auto* found = std::find_if(
      kFormats.begin(), kFormats.end(),
      [&](const BlockFormat& format) { return static_cast<std::uint32_t>(format.type) == type; });
  return found == kFormats.end() ? nullptr : found;
}

std::string ggml_type_name(std::uint32_t type) {
  if (const BlockFormat* format = find_block_format(type)) {
    return format->name;
  }
  const auto* found = std::find_if(std::begin(kOtherNames), std::end(kOtherNames),
                                   [&](const TypeName& other) { return other.type == type; });
  return found == std::end(kOtherNames) ? fmt::format("{}", type) : found->name;
}

std::string decodable_type_names() {
  std::vector<const char*> names;
  for (const BlockFormat& format : kFormats) {
    names.push_back(format.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

void dequantize(const BlockFormat& format, const std::byte* row, Range elements, float* values) {
  std::array<float, kLargestBlock> whole{};
  std::int64_t at = elements.begin;
  while (at < elements.end) {
    const std::int64_t block = at / format.elements;
    const std::int64_t first = at - block * format.elements;
    const std::int64_t count = std::min(format.elements - first, elements.end - at);
    const std::byte* data = row + block * format.bytes;
    if (count == format.elements) {
      format.decode_block(data, values);
    } else {
      format.decode_block(data, whole.data());
      std::copy_n(whole.data() + first, count, values);
    }
    at += count;
    values += count;
  }
}

}  // namespace bipo
