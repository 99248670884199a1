#include "collectives/foundation/block_hash.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace bipo {
namespace {

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  std::uint32_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

TEST(BlockHash, EveryBitOfEveryLengthCounts) {
  for (std::size_t count = 0; count < 200; ++count) {
    std::vector<std::byte> bytes = some_bytes(count);
    std::set<std::uint64_t> seen{block_hash(bytes)};
    for (std::size_t bit = 0; bit < 8 * count; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
      EXPECT_TRUE(seen.insert(block_hash(bytes)).second) << count << " bytes, bit " << bit;
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
    }
    EXPECT_EQ(seen.count(block_hash(bytes)), 1U);
  }
}

// What sums and simple shifts would not find: pairs of bits in words of the same lane.
TEST(BlockHash, TwoBitsDoNotCancel) {
  std::vector<std::byte> bytes = some_bytes(96);
  std::set<std::uint64_t> seen{block_hash(bytes)};
  const auto flip = [&](std::size_t bit) { bytes[bit / 8] ^= std::byte{1} << bit % 8; };
  for (std::size_t one = 0; one < 64; ++one) {
    for (std::size_t other = 256; other < 320; ++other) {
      flip(one);
      flip(other);
      EXPECT_TRUE(seen.insert(block_hash(bytes)).second) << one << " and " << other;
      flip(one);
      flip(other);
    }
  }
}

TEST(BlockHash, LengthsOrderAndPlacesOfZerosCount) {
  std::set<std::uint64_t> seen;
  for (std::size_t count = 0; count < 300; ++count) {
    EXPECT_TRUE(seen.insert(block_hash(std::vector<std::byte>(count))).second) << count;
  }
  std::vector<std::byte> bytes = some_bytes(4096);
  seen = {block_hash(bytes)};
  for (std::size_t word = 0; word + 1 < 512; ++word) {
    std::vector<std::byte> swapped = bytes;
    std::swap_ranges(swapped.begin() + 8 * word, swapped.begin() + 8 * word + 8,
                     swapped.begin() + 8 * word + 8);
    EXPECT_TRUE(seen.insert(block_hash(swapped)).second) << word;
  }
}

// Files hold these values, which were computed apart from the program: another computer, or a later
// version, must find the same.
TEST(BlockHash, StaysTheSame) {
  EXPECT_EQ(block_hash({}), 0xe42ba4be6153b6daU);
  EXPECT_EQ(block_hash(some_bytes(7)), 0xa6f6f8472290f829U);
  EXPECT_EQ(block_hash(some_bytes(1000)), 0x28801aa25777604cU);
}

}  // namespace
}  // namespace bipo
