// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11, "Parallel random numbers: as
// easy as 1, 2, 3", section 4.3 and table 2).
#pragma once

#include <array>
#include <cstdint>

namespace bipo {

// Runs ten rounds of multiplications and exclusive ors over the 128-bit `counter` under `key`; a
// pure function.
inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                               std::array<std::uint32_t, 2> key) {
  const auto product = [](std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} * b; };
  const auto high = [](std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); };
  const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = product(0xD2511F53, counter[0]);
    const std::uint64_t second = product(0xCD9E8D57, counter[2]);
    counter = {high(second) ^ counter[1] ^ key[0], low(second), high(first) ^ counter[3] ^ key[1],
               low(first)};
    key[0] += 0x9E3779B9;  // golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

}  // namespace bipo
