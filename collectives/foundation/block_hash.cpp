#include "collectives/foundation/block_hash.hpp"

#include <array>
#include <cstring>

namespace bipo {
namespace {

// The lanes do not wait for each other's multiplications.
constexpr std::size_t kLanes = 4;
constexpr std::size_t kWord = sizeof(std::uint64_t);

// Fractional parts of the square roots of primes; the factors are odd.
constexpr std::array<std::uint64_t, kLanes> kBeginnings = {0x6a09e667f3bcc908, 0x510e527fade682d1,
                                                           0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr std::array<std::uint64_t, kLanes> kFactors = {0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                                                        0xa54ff53a5f1d36f1, 0x9b05688c2b3e6c1f};

__extension__ using Product = unsigned __int128;

// Returns both halves of a product, which spreads every bit over all others.
std::uint64_t mix(std::uint64_t value, std::uint64_t factor) {
  const Product product = static_cast<Product>(value) * factor;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t word_at(const std::byte* bytes, std::size_t count = kWord) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, count);
  return word;
}

}  // namespace

std::uint64_t block_hash(std::span<const std::byte> bytes) {
  std::array<std::uint64_t, kLanes> lanes = kBeginnings;
  const std::byte* next = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= kLanes * kWord; left -= kLanes * kWord, next += kLanes * kWord) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = mix(lanes[lane] ^ word_at(next + lane * kWord), kFactors[lane]);
    }
  }
  std::uint64_t hash = bytes.size();
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    hash = mix(hash ^ lanes[lane], kFactors[lane]);
  }
  while (left > 0) {
    const std::size_t count = left < kWord ? left : kWord;
    hash = mix(hash ^ word_at(next, count), kFactors[0]);
    next += count;
    left -= count;
  }
  return mix(hash, kFactors[1]);
}

}  // namespace bipo
