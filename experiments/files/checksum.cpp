#include "experiments/files/checksum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace bipo {
namespace {

static_assert(std::endian::native == std::endian::little);

// The fractional parts of the square roots of the first eight primes.
constexpr std::array<std::uint64_t, 8> kStart = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

// The order in which a round takes the words of the block; round 10 begins again.
constexpr std::uint8_t kOrder[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                         {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                         {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                         {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                         {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                         {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                         {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                         {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                         {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                         {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

constexpr int kRounds = 12;

void mix(std::uint64_t& a, std::uint64_t& b, std::uint64_t& c, std::uint64_t& d, std::uint64_t x,
         std::uint64_t y) {
  a += b + x;
  d = std::rotr(d ^ a, 32);
  c += d;
  b = std::rotr(b ^ c, 24);
  a += b + y;
  d = std::rotr(d ^ a, 16);
  c += d;
  b = std::rotr(b ^ c, 63);
}

}  // namespace

Checksum::Checksum() : state_(kStart) {
  constexpr std::uint64_t kNoKeyNoTree = 0x01010000;  // the parameter block's first word
  state_[0] ^= kNoKeyNoTree ^ kBytes;
}

// The last block stays, because the compression of the last one differs.
void Checksum::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (filled_ == kBlock) {
      total_ += kBlock;
      compress(/*is_last=*/false);
      filled_ = 0;
    }
    const std::size_t count = std::min(kBlock - filled_, bytes.size());
    std::memcpy(block_.data() + filled_, bytes.data(), count);
    filled_ += count;
    bytes = bytes.subspan(count);
  }
}

void Checksum::compress(bool is_last) {
  std::array<std::uint64_t, 16> words;
  std::memcpy(words.data(), block_.data(), kBlock);
  std::array<std::uint64_t, 16> v;
  std::copy(state_.begin(), state_.end(), v.begin());
  std::copy(kStart.begin(), kStart.end(), v.begin() + 8);
  v[12] ^= total_;
  v[14] = is_last ? ~v[14] : v[14];
#pragma GCC unroll 12
  for (int round = 0; round < kRounds; ++round) {
    const std::uint8_t* order = kOrder[round % 10];
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      mix(v[i], v[4 + i], v[8 + i], v[12 + i], words[order[2 * i]], words[order[2 * i + 1]]);
    }
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      mix(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4],
          words[order[8 + 2 * i]], words[order[9 + 2 * i]]);
    }
  }
  for (std::size_t i = 0; i < state_.size(); ++i) {
    state_[i] ^= v[i] ^ v[i + 8];
  }
}

Checksum::Digest Checksum::digest() {
  total_ += filled_;
  std::fill(block_.begin() + static_cast<std::ptrdiff_t>(filled_), block_.end(), std::byte{0});
  compress(/*is_last=*/true);
  Digest digest;
  std::memcpy(digest.data(), state_.data(), kBytes);
  return digest;
}

std::string Checksum::text() {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : digest()) {
    text += kDigits[std::to_integer<std::size_t>(byte >> 4)];
    text += kDigits[std::to_integer<std::size_t>(byte & std::byte{15})];
  }
  return text;
}

}  // namespace bipo
