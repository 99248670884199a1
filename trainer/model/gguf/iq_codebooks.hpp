// The codebooks of the IQ1, IQ2 and IQ3 tensor types: small vectors that blocks name by number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bipo {

template <std::size_t Size>
using CodebookPoint = std::array<std::int8_t, Size>;

// Made at the first call, by any thread; the point of a block's index i is element i.
const std::vector<CodebookPoint<8>>& iq1_s_codebook();    // 2048 points of -1, 0, 1; also IQ1_M's
const std::vector<CodebookPoint<8>>& iq2_xxs_codebook();  // 256, without signs, as those below
const std::vector<CodebookPoint<8>>& iq2_xs_codebook();   // 512
const std::vector<CodebookPoint<8>>& iq2_s_codebook();    // 1024
const std::vector<CodebookPoint<4>>& iq3_xxs_codebook();  // 256
const std::vector<CodebookPoint<4>>& iq3_s_codebook();    // 512

}  // namespace bipo
