// Dequantised blocks against blocks packed by hand from known numbers, and parts of rows.  (The
// reference tests compare with the gguf package, for every type.)
#include "trainer/model/gguf/block_quantization.hpp"

#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
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

INSTANTIATE_TEST_SUITE_P(Types, RowParts,
                         ::testing::Values(GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16,
                                           GgmlType::kQ8_0, GgmlType::kQ4_0, GgmlType::kQ4_1,
                                           GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ4_K,
                                           GgmlType::kQ5_K, GgmlType::kQ6_K),
                         [](const auto& type) {
                           return ggml_type_name(static_cast<std::uint32_t>(type.param));
                         });

TEST(BlockQuantization, TypesThatAreNotDecodedHaveNamesOnly) {
  EXPECT_EQ(find_block_format(10), nullptr);
  EXPECT_EQ(ggml_type_name(10), "Q2_K");
  EXPECT_EQ(ggml_type_name(999), "999");
}

}  // namespace
}  // namespace bipo
