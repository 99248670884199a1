// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11, "Parallel random numbers: as
// easy as 1, 2, 3", section 4.3 and table 2).
#pragma once

#include <array>
#include <cstdint>

namespace bipo {

// Ten rounds of Philox over `counter` under `key`; a pure function.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

}  // namespace bipo
