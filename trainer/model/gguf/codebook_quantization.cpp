#include "trainer/model/gguf/codebook_quantization.hpp"

#include <array>
#include <bit>
#include <cstdint>

#include "trainer/model/gguf/block_bytes.hpp"
#include "trainer/model/gguf/iq_codebooks.hpp"

namespace bipo {
namespace {

using SixteenValues = std::array<float, 16>;

constexpr SixteenValues kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

// Twice the values of E2M1 (Open Compute Project, Microscaling Formats 1.0, section 5.3.3); minus
// zero is stored as zero.
constexpr SixteenValues kE2m1Values = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Decodes 2 `half` values: byte i of `quants` holds the numbers of i and i + `half`.
void decode_nibbles(const SixteenValues& table, float scale, const std::byte* quants,
                    std::int64_t half, float* values) {
  for (std::int64_t i = 0; i < half; ++i) {
    const std::uint32_t both = byte_at(quants, i);
    values[i] = scale * table[both & 15U];
    values[i + half] = scale * table[both >> 4];
  }
}

// Returns `value` with the other sign if bit `index` of `minus` is set.
float with_sign(float value, std::uint32_t minus, std::size_t index) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ ((minus >> index) & 1U) << 31);
}

template <std::size_t Size>
float* append_signed(float scale, const CodebookPoint<Size>& point, std::uint32_t minus,
                     float* values) {
  for (std::size_t i = 0; i < Size; ++i) {
    values[i] = with_sign(scale * static_cast<float>(point[i]), minus, i);
  }
  return values + Size;
}

// Returns the signs of eight values of which seven are stored: the number of minus signs is even.
std::uint32_t with_parity(std::uint32_t seven) {
  return seven | static_cast<std::uint32_t>(std::popcount(seven) & 1) << 7;
}

std::uint32_t nibble_at(const std::byte* data, std::int64_t index) {
  return (byte_at(data, index / 2) >> (index % 2 * 4)) & 15U;
}

float* append_shifted(float scale, const CodebookPoint<8>& point, float shift, float* values) {
  for (std::size_t i = 0; i < point.size(); ++i) {
    values[i] = scale * (static_cast<float>(point[i]) + shift);
  }
  return values + point.size();
}

constexpr float kIq1Shift = 0.125F;

// Returns half of an unsigned E4M3 number, since the table is doubled.  NaN is 0, and the sign bit
// is ignored.
float half_of_e4m3(std::uint32_t bits) {
  constexpr std::uint32_t kNan = 0x7F;
  constexpr std::uint32_t kRebias = 127 - 7 - 1;
  const std::uint32_t exponent = (bits >> 3) & 15U;
  const std::uint32_t mantissa = bits & 7U;
  if (bits == kNan) {
    return 0;
  }
  return exponent == 0 ? static_cast<float>(mantissa) * 0x1p-10F
                       : std::bit_cast<float>((exponent + kRebias) << 23 | mantissa << 20);
}

// Returns half of 2 to the power of e - 127.
float half_of_e8m0(std::uint32_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000U << e : (e - 1) << 23);
}

}  // namespace

void decode_iq4_nl(const std::byte* block, float* values) {
  decode_nibbles(kIq4Values, half_at(block), block + 2, 16, values);
}

// Eight groups of 32 with a signed 6-bit scale each, whose lower four bits and upper two are stored
// apart.
void decode_iq4_xs(const std::byte* block, float* values) {
  const float scale = half_at(block);
  const std::uint32_t upper = load_at<std::uint16_t>(block + 2);
  for (std::int64_t group = 0; group < 8; ++group) {
    const std::uint32_t bits = nibble_at(block + 4, group) | ((upper >> (2 * group)) & 3U) << 4;
    const float group_scale = scale * static_cast<float>(static_cast<int>(bits) - 32);
    decode_nibbles(kIq4Values, group_scale, block + 8 + group * 16, 16, values + group * 32);
  }
}

void decode_mxfp4(const std::byte* block, float* values) {
  decode_nibbles(kE2m1Values, half_of_e8m0(byte_at(block, 0)), block + 1, 16, values);
}

void decode_nvfp4(const std::byte* block, float* values) {
  for (std::int64_t group = 0; group < 4; ++group) {
    decode_nibbles(kE2m1Values, half_of_e4m3(byte_at(block, group)), block + 4 + group * 8, 8,
                   values + group * 16);
  }
}

// Each group of 32: four numbers of points in a byte each, then four times seven signs and a scale.
void decode_iq2_xxs(const std::byte* block, float* values) {
  const auto& codebook = iq2_xxs_codebook();
  const float scale = half_at(block);
  for (std::int64_t group = 0; group < 8; ++group) {
    const std::byte* points = block + 2 + group * 8;
    const auto rest = load_at<std::uint32_t>(points + 4);
    const float group_scale = scale * (0.5F + static_cast<float>(rest >> 28)) * 0.25F;
    for (std::int64_t i = 0; i < 4; ++i) {
      values = append_signed(group_scale, codebook[byte_at(points, i)],
                             with_parity((rest >> (7 * i)) & 127U), values);
    }
  }
}

void decode_iq2_xs(const std::byte* block, float* values) {
  const auto& codebook = iq2_xs_codebook();
  const float scale = half_at(block);
  for (std::int64_t i = 0; i < 32; ++i) {
    const std::uint32_t both = load_at<std::uint16_t>(block + 2 + i * 2);
    const auto multiple = static_cast<float>(nibble_at(block + 66, i / 2));
    const float group_scale = scale * (0.5F + multiple) * 0.25F;
    values = append_signed(group_scale, codebook[both & 511U], with_parity(both >> 9), values);
  }
}

void decode_iq2_s(const std::byte* block, float* values) {
  const auto& codebook = iq2_s_codebook();
  const float scale = half_at(block);
  for (std::int64_t i = 0; i < 32; ++i) {
    const std::uint32_t upper = (byte_at(block + 66, i / 4) >> (i % 4 * 2)) & 3U;
    const auto multiple = static_cast<float>(nibble_at(block + 74, i / 2));
    const float group_scale = scale * (0.5F + multiple) * 0.25F;
    values = append_signed(group_scale, codebook[byte_at(block + 2, i) | upper << 8],
                           byte_at(block + 34, i), values);
  }
}

void decode_iq3_xxs(const std::byte* block, float* values) {
  const auto& codebook = iq3_xxs_codebook();
  const float scale = half_at(block);
  const std::byte* points = block + 2;
  for (std::int64_t group = 0; group < 8; ++group) {
    const auto rest = load_at<std::uint32_t>(block + 66 + group * 4);
    const float group_scale = scale * (0.5F + static_cast<float>(rest >> 28)) * 0.5F;
    for (std::int64_t i = 0; i < 4; ++i) {
      const std::uint32_t minus = with_parity((rest >> (7 * i)) & 127U);
      values = append_signed(group_scale, codebook[byte_at(points++, 0)], minus, values);
      values = append_signed(group_scale, codebook[byte_at(points++, 0)], minus >> 4, values);
    }
  }
}

void decode_iq3_s(const std::byte* block, float* values) {
  const auto& codebook = iq3_s_codebook();
  const float scale = half_at(block);
  for (std::int64_t i = 0; i < 64; ++i) {
    const std::uint32_t upper = (byte_at(block + 66, i / 8) >> (i % 8)) & 1U;
    const std::uint32_t minus = byte_at(block + 74, i / 2) >> (i % 2 * 4);
    const float group_scale = scale * static_cast<float>(1 + 2 * nibble_at(block + 106, i / 8));
    values =
        append_signed(group_scale, codebook[byte_at(block + 2, i) | upper << 8], minus, values);
  }
}

void decode_iq1_s(const std::byte* block, float* values) {
  const auto& codebook = iq1_s_codebook();
  const float scale = half_at(block);
  for (std::int64_t group = 0; group < 8; ++group) {
    const std::uint32_t rest = load_at<std::uint16_t>(block + 34 + group * 2);
    const float group_scale = scale * static_cast<float>(2 * ((rest >> 12) & 7U) + 1);
    const float shift = (rest & 0x8000U) == 0 ? kIq1Shift : -kIq1Shift;
    for (std::int64_t i = 0; i < 4; ++i) {
      const std::uint32_t upper = (rest >> (3 * i)) & 7U;
      const auto& point = codebook[byte_at(block + 2, group * 4 + i) | upper << 8];
      values = append_shifted(group_scale, point, shift, values);
    }
  }
}

// The block's scale is in pieces of four bits above four times four 3-bit scales, each for 16
// values.
void decode_iq1_m(const std::byte* block, float* values) {
  const auto& codebook = iq1_s_codebook();
  std::array<std::uint32_t, 4> packed{};
  std::uint32_t scale_bits = 0;
  for (std::size_t i = 0; i < packed.size(); ++i) {
    packed[i] = load_at<std::uint16_t>(block + 48 + i * 2);
    scale_bits |= (packed[i] >> 12) << (4 * i);
  }
  const float scale = half_to_float(static_cast<std::uint16_t>(scale_bits));
  for (std::int64_t i = 0; i < 32; ++i) {
    const std::int64_t group = i / 2;
    const std::uint32_t multiple =
        (packed[static_cast<std::size_t>(group / 4)] >> (group % 4 * 3)) & 7U;
    const std::uint32_t upper = nibble_at(block + 32, i);
    const float shift = (upper & 8U) == 0 ? kIq1Shift : -kIq1Shift;
    const auto& point = codebook[byte_at(block, i) | (upper & 7U) << 8];
    values = append_shifted(scale * static_cast<float>(2 * multiple + 1), point, shift, values);
  }
}

}  // namespace bipo
