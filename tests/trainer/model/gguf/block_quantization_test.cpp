// Dequantised blocks against blocks packed by hand from known numbers, and parts of rows.  (The
// reference tests compare with the gguf package, for every type.)
#include "trainer/model/gguf/block_quantization.hpp"

#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

namespace bipo {
namespace {

using Bytes = std::vector<std::uint8_t>;

const BlockFormat& format_of(GgmlType type) {
  return *find_block_format(static_cast<std::uint32_t>(type));
}

std::vector<float> decoded(GgmlType type, const Bytes& row, Range elements) {
  std::vector<float> values(static_cast<std::size_t>(elements.size()));
  dequantize(format_of(type), reinterpret_cast<const std::byte*>(row.data()), elements,
             values.data());
  return values;
}

Bytes half(float value) {
  const std::uint16_t bits = c10::Half(value).x;
  return {static_cast<std::uint8_t>(bits & 0xFF), static_cast<std::uint8_t>(bits >> 8)};
}

void append(Bytes& to, const Bytes& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// Puts `bits` bits of `value` at bit `at` of `bytes`.
void put(Bytes& bytes, std::size_t at, int bits, std::uint32_t value) {
  for (int i = 0; i < bits; ++i, ++at) {
    bytes[at / 8] |= static_cast<std::uint8_t>(((value >> i) & 1U) << (at % 8));
  }
}

std::vector<std::uint32_t> random_quants(std::size_t count, std::uint32_t below) {
  std::mt19937 random(count + below);
  std::vector<std::uint32_t> quants(count);
  for (auto& quant : quants) {
    quant = random() % below;
  }
  return quants;
}

TEST(BlockQuantization, HalvesAreWhatC10Makes) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Bytes row = {static_cast<std::uint8_t>(bits & 0xFF),
                       static_cast<std::uint8_t>(bits >> 8)};
    const float actual = decoded(GgmlType::kF16, row, {0, 1})[0];
    const float expected = c10::Half(static_cast<std::uint16_t>(bits), c10::Half::from_bits());
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual)) << bits;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected))
          << bits;
    }
  }
}

TEST(BlockQuantization, Q8_0) {
  Bytes block = half(0.25F);
  for (int i = 0; i < 32; ++i) {
    block.push_back(static_cast<std::uint8_t>(i * 8 - 128));
  }
  const std::vector<float> values = decoded(GgmlType::kQ8_0, block, {0, 32});
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(values[static_cast<std::size_t>(i)], 0.25F * static_cast<float>(i * 8 - 128));
  }
}

// Where the low four bits of element i of a block of 32 lie, in bits from the quants' beginning.
std::size_t nibble_of(std::size_t i) {
  return i % 16 * 8 + i / 16 * 4;
}

TEST(BlockQuantization, Q4_0AndQ4_1) {
  const auto quants = random_quants(32, 16);
  Bytes nibbles(16);
  for (std::size_t i = 0; i < 32; ++i) {
    put(nibbles, nibble_of(i), 4, quants[i]);
  }
  Bytes plain = half(-0.5F);
  append(plain, nibbles);
  Bytes with_minimum = half(2);
  append(with_minimum, half(-3));
  append(with_minimum, nibbles);
  const auto q4_0 = decoded(GgmlType::kQ4_0, plain, {0, 32});
  const auto q4_1 = decoded(GgmlType::kQ4_1, with_minimum, {0, 32});
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(q4_0[i], -0.5F * (static_cast<float>(quants[i]) - 8));
    EXPECT_EQ(q4_1[i], 2 * static_cast<float>(quants[i]) - 3);
  }
}

TEST(BlockQuantization, Q5_0AndQ5_1) {
  const auto quants = random_quants(32, 32);
  Bytes packed(20);
  for (std::size_t i = 0; i < 32; ++i) {
    put(packed, i, 1, quants[i] >> 4);
    put(packed, 32 + nibble_of(i), 4, quants[i] & 15U);
  }
  Bytes plain = half(0.5F);
  append(plain, packed);
  Bytes with_minimum = half(4);
  append(with_minimum, half(1));
  append(with_minimum, packed);
  const auto q5_0 = decoded(GgmlType::kQ5_0, plain, {0, 32});
  const auto q5_1 = decoded(GgmlType::kQ5_1, with_minimum, {0, 32});
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(q5_0[i], 0.5F * (static_cast<float>(quants[i]) - 16));
    EXPECT_EQ(q5_1[i], 4 * static_cast<float>(quants[i]) + 1);
  }
}

// The twelve bytes of eight 6-bit scales and minima.
Bytes packed_scales(const std::vector<std::uint32_t>& scales,
                    const std::vector<std::uint32_t>& minima) {
  Bytes bytes(12);
  for (std::size_t j = 0; j < 4; ++j) {
    put(bytes, j * 8, 6, scales[j]);
    put(bytes, (4 + j) * 8, 6, minima[j]);
    put(bytes, (8 + j) * 8, 4, scales[4 + j] & 15U);
    put(bytes, (8 + j) * 8 + 4, 4, minima[4 + j] & 15U);
    put(bytes, j * 8 + 6, 2, scales[4 + j] >> 4);
    put(bytes, (4 + j) * 8 + 6, 2, minima[4 + j] >> 4);
  }
  return bytes;
}

TEST(BlockQuantization, Q4_KAndQ5_K) {
  const auto quants = random_quants(256, 32);
  const auto scales = random_quants(8, 64);
  const auto minima = random_quants(8, 63);
  Bytes low(128);
  Bytes high(32);
  for (std::size_t i = 0; i < 256; ++i) {
    put(low, i / 64 * 256 + i % 32 * 8 + i / 32 % 2 * 4, 4, quants[i] & 15U);
    put(high, i % 32 * 8 + i / 32, 1, quants[i] >> 4);
  }
  Bytes head = half(0.5F);
  append(head, half(0.25F));
  append(head, packed_scales(scales, minima));
  Bytes q4_k = head;
  append(q4_k, low);
  Bytes q5_k = head;
  append(q5_k, high);
  append(q5_k, low);
  const auto four_bits = decoded(GgmlType::kQ4_K, q4_k, {0, 256});
  const auto five_bits = decoded(GgmlType::kQ5_K, q5_k, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    const float scale = 0.5F * static_cast<float>(scales[i / 32]);
    const float minimum = 0.25F * static_cast<float>(minima[i / 32]);
    EXPECT_EQ(four_bits[i], scale * static_cast<float>(quants[i] & 15U) - minimum) << i;
    EXPECT_EQ(five_bits[i], scale * static_cast<float>(quants[i]) - minimum) << i;
  }
}

TEST(BlockQuantization, Q6_K) {
  const auto quants = random_quants(256, 64);
  Bytes block(192);
  for (std::size_t i = 0; i < 256; ++i) {
    const std::size_t in_half = i % 128;
    put(block, (i / 128 * 64 + in_half % 64) * 8 + in_half / 64 * 4, 4, quants[i] & 15U);
    put(block, (128 + i / 128 * 32 + in_half % 32) * 8 + in_half / 32 * 2, 2, quants[i] >> 4);
  }
  for (int j = 0; j < 16; ++j) {
    block.push_back(static_cast<std::uint8_t>(j * 16 - 128));
  }
  append(block, half(0.125F));
  const auto values = decoded(GgmlType::kQ6_K, block, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    const float scale = 0.125F * (static_cast<float>(i / 16) * 16 - 128);
    EXPECT_EQ(values[i], scale * (static_cast<float>(quants[i]) - 32)) << i;
  }
}

// Where the two bits of element i lie in Q2_K and Q3_K: in bits from the quants' beginning.
std::size_t pair_of_bits(std::size_t i) {
  return (i / 128 * 32 + i % 32) * 8 + i / 32 % 4 * 2;
}

TEST(BlockQuantization, Q2_K) {
  const auto quants = random_quants(256, 4);
  const auto scales = random_quants(16, 16);
  const auto minima = random_quants(16, 15);
  Bytes block(80);
  for (std::size_t i = 0; i < 256; ++i) {
    put(block, 16 * 8 + pair_of_bits(i), 2, quants[i]);
  }
  for (std::size_t j = 0; j < 16; ++j) {
    put(block, j * 8, 4, scales[j]);
    put(block, j * 8 + 4, 4, minima[j]);
  }
  append(block, half(0.5F));
  append(block, half(0.25F));
  const auto values = decoded(GgmlType::kQ2_K, block, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    const float scale = 0.5F * static_cast<float>(scales[i / 16]);
    EXPECT_EQ(values[i],
              scale * static_cast<float>(quants[i]) - 0.25F * static_cast<float>(minima[i / 16]))
        << i;
  }
}

TEST(BlockQuantization, Q3_K) {
  const auto quants = random_quants(256, 8);
  const auto scales = random_quants(16, 64);
  Bytes block(108);
  for (std::size_t i = 0; i < 256; ++i) {
    put(block, i % 32 * 8 + i / 32, 1, quants[i] >> 2);
    put(block, 32 * 8 + pair_of_bits(i), 2, quants[i] & 3U);
  }
  for (std::size_t j = 0; j < 16; ++j) {
    put(block, (96 + j % 8) * 8 + j / 8 * 4, 4, scales[j] & 15U);
    put(block, (104 + j % 4) * 8 + j / 4 * 2, 2, scales[j] >> 4);
  }
  append(block, half(0.5F));
  const auto values = decoded(GgmlType::kQ3_K, block, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    const float scale = 0.5F * (static_cast<float>(scales[i / 16]) - 32);
    EXPECT_EQ(values[i], scale * (static_cast<float>(quants[i]) - 4)) << i;
  }
}

// The first and last of the sixteen values, and where its sign changes.
TEST(BlockQuantization, Iq4_NlAndIq4_Xs) {
  constexpr float kValues[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};
  const auto quants = random_quants(256, 16);
  const auto scales = random_quants(8, 64);
  Bytes small = half(0.5F);
  small.resize(18);
  Bytes large = half(0.25F);
  large.resize(136);
  for (std::size_t i = 0; i < 256; ++i) {
    if (i < 32) {
      put(small, 16 + nibble_of(i), 4, quants[i]);
    }
    put(large, 64 + i / 32 * 128 + nibble_of(i % 32), 4, quants[i]);
  }
  for (std::size_t j = 0; j < 8; ++j) {
    put(large, 16 + j * 2, 2, scales[j] >> 4);
    put(large, 32 + j * 4, 4, scales[j] & 15U);
  }
  const auto nl = decoded(GgmlType::kIQ4_NL, small, {0, 32});
  const auto xs = decoded(GgmlType::kIQ4_XS, large, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    if (i < 32) {
      EXPECT_EQ(nl[i], 0.5F * kValues[quants[i]]) << i;
    }
    const float scale = 0.25F * (static_cast<float>(scales[i / 32]) - 32);
    EXPECT_EQ(xs[i], scale * kValues[quants[i]]) << i;
  }
}

TEST(BlockQuantization, Mxfp4) {
  constexpr float kE2m1[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  // Exponents 127 (1), 130 (8), and those whose halves are subnormal: 2^-127 and 2^-126.
  for (const auto& [exponent, scale] : std::vector<std::pair<std::uint8_t, float>>{
           {127, 1.0F}, {130, 8.0F}, {0, 0x1p-127F}, {1, 0x1p-126F}}) {
    Bytes block(17);
    block[0] = exponent;
    for (std::size_t i = 0; i < 32; ++i) {
      put(block, 8 + nibble_of(i), 4, static_cast<std::uint32_t>(i % 16));
    }
    const auto values = decoded(GgmlType::kMXFP4, block, {0, 32});
    for (std::size_t i = 0; i < 32; ++i) {
      EXPECT_EQ(values[i], (i % 16 < 8 ? scale : -scale) * kE2m1[i % 8]) << i;
    }
  }
}

// E4M3 scales: 0x38 is 1, 0x7E 448, 0x01 2^-9, and 0x7F, NaN, counts as 0.
TEST(BlockQuantization, Nvfp4) {
  constexpr float kE2m1[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  constexpr float kScales[] = {1, 448, 0x1p-9F, 0};
  Bytes block = {0x38, 0x7E, 0x01, 0x7F};
  block.resize(36);
  for (std::size_t i = 0; i < 64; ++i) {
    const std::size_t in_group = i % 16;
    put(block, 32 + i / 16 * 64 + in_group % 8 * 8 + in_group / 8 * 4, 4,
        static_cast<std::uint32_t>(in_group));
  }
  const auto values = decoded(GgmlType::kNVFP4, block, {0, 64});
  for (std::size_t i = 0; i < 64; ++i) {
    const float sign = i % 16 < 8 ? 1 : -1;
    EXPECT_EQ(values[i], sign * kScales[i / 16] * kE2m1[i % 8]) << i;
  }
}

// A byte holds the number that is made of five digits, in 243rds, rounded up to 256ths.
TEST(BlockQuantization, TernaryTypes) {
  const auto digits = random_quants(256, 3);
  Bytes five(52);
  const auto pack = [&](std::size_t at, std::size_t count, std::size_t many, std::size_t first) {
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t number = 0;
      for (std::size_t digit = 0; digit < 5; ++digit) {
        number = number * 3 + (digit < many ? digits[first + digit * count + i] : 0);
      }
      five[at + i] = static_cast<std::uint8_t>((number * 256 + 242) / 243);
    }
  };
  pack(0, 32, 5, 0);
  pack(32, 16, 5, 160);
  pack(48, 4, 4, 240);
  Bytes pairs(64);
  for (std::size_t i = 0; i < 256; ++i) {
    put(pairs, pair_of_bits(i), 2, digits[i]);
  }
  append(five, half(0.5F));
  append(pairs, half(0.25F));
  const auto tq1 = decoded(GgmlType::kTQ1_0, five, {0, 256});
  const auto tq2 = decoded(GgmlType::kTQ2_0, pairs, {0, 256});
  for (std::size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(tq1[i], 0.5F * (static_cast<float>(digits[i]) - 1)) << i;
    EXPECT_EQ(tq2[i], 0.25F * (static_cast<float>(digits[i]) - 1)) << i;
  }
}

// Point 0 of the codebooks has the lowest coordinates in all dimensions, the last the highest; the
// numbers in between are compared with the gguf package's.
TEST(BlockQuantization, FirstAndLastPointsOfTheCodebooks) {
  const auto all_equal = [](const std::vector<float>& values, std::size_t begin, float expected) {
    for (std::size_t i = begin; i < begin + 8; ++i) {
      EXPECT_EQ(values[i], expected) << i;
    }
  };
  Bytes iq2 = half(2);
  iq2.resize(82);
  iq2[2 + 1] = 0xFF;  // the second point is number 1023
  iq2[66] = 0x0C;
  iq2[74] = 0x13;      // the scale is 2 (0.5 + 3) / 4
  iq2[34 + 1] = 0xFF;  // and it has the other sign
  const auto iq2_s = decoded(GgmlType::kIQ2_S, iq2, {0, 256});
  all_equal(iq2_s, 0, 1.75F * 8);
  all_equal(iq2_s, 8, -1.75F * 43);
  all_equal(iq2_s, 16, 0.75F * 8);
  Bytes iq1 = half(1);
  iq1.resize(50);
  iq1[2 + 3] = 0xFF;  // the fourth point is number 2047
  iq1[34 + 1] = 0x0E;
  iq1[34 + 3] = 0xF0;  // the second group has a scale of 15 and a negative shift
  const auto iq1_s = decoded(GgmlType::kIQ1_S, iq1, {0, 256});
  all_equal(iq1_s, 0, -0.875F);
  all_equal(iq1_s, 24, 1.125F);
  all_equal(iq1_s, 32, 15 * -1.125F);
}

// IQ2_XXS and IQ3_XXS store seven of eight signs: an odd number of them makes the eighth negative.
TEST(BlockQuantization, TheEighthSignMakesTheirNumberEven) {
  Bytes block = half(4);
  block.resize(66);
  put(block, 16 + 32, 7, 0b0000101);
  put(block, 16 + 32 + 7, 7, 0b1000011);
  const auto values = decoded(GgmlType::kIQ2_XXS, block, {0, 16});
  const std::vector<int> minus = {1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1};
  for (std::size_t i = 0; i < minus.size(); ++i) {
    EXPECT_EQ(values[i], (minus[i] == 1 ? -0.5F : 0.5F) * 8) << i;
  }
}

TEST(BlockQuantization, F64IsRounded) {
  Bytes row(16);
  const double values[] = {1 + 0x1p-40, -1e300};
  std::memcpy(row.data(), values, sizeof(values));
  EXPECT_EQ(decoded(GgmlType::kF64, row, {0, 2}), (std::vector<float>{1, -INFINITY}));
}

class RowParts : public ::testing::TestWithParam<GgmlType> {};

TEST_P(RowParts, AreThoseOfTheWholeRow) {
  const BlockFormat& format = format_of(GetParam());
  constexpr std::int64_t kElements = 512;
  std::mt19937 random(3);
  // At an odd address, with nothing behind the row that could be read unnoticed.
  Bytes storage(static_cast<std::size_t>(1 + kElements / format.elements * format.bytes));
  for (auto& byte : storage) {
    byte = static_cast<std::uint8_t>(random());
  }
  const auto* row = reinterpret_cast<const std::byte*>(storage.data() + 1);
  std::vector<float> whole(kElements);
  dequantize(format, row, {0, kElements}, whole.data());
  for (const Range part : {Range{0, 1},
                           {31, 33},
                           {32, 64},
                           {7, 500},
                           {255, 257},
                           {256, 512},
                           {100, 101},
                           {511, 512},
                           {171, 342},
                           {5, 5}}) {
    std::vector<float> values(static_cast<std::size_t>(part.size()) + 1, 1234.5F);
    dequantize(format, row, part, values.data());
    EXPECT_EQ(std::memcmp(values.data(), whole.data() + part.begin,
                          static_cast<std::size_t>(part.size()) * sizeof(float)),
              0)
        << part.begin << " to " << part.end;
    EXPECT_EQ(values.back(), 1234.5F);
  }
}

std::vector<GgmlType> all_types() {
  std::vector<GgmlType> types;
  for (std::uint32_t number = 0; number < 64; ++number) {
    if (const BlockFormat* format = find_block_format(number)) {
      types.push_back(format->type);
    }
  }
  return types;
}

INSTANTIATE_TEST_SUITE_P(Types, RowParts, ::testing::ValuesIn(all_types()), [](const auto& type) {
  return ggml_type_name(static_cast<std::uint32_t>(type.param));
});

TEST(BlockQuantization, TypesThatAreNotDecodedHaveNamesOnly) {
  EXPECT_EQ(all_types().size(), 27U);
  for (const auto& [number, name] : std::vector<std::pair<std::uint32_t, const char*>>{
           {15, "Q8_K"}, {31, "Q4_0_4_4"}, {41, "Q1_0"}, {999, "999"}}) {
    EXPECT_EQ(find_block_format(number), nullptr);
    EXPECT_EQ(ggml_type_name(number), name);
  }
}

}  // namespace
}  // namespace bipo
