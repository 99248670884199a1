// How many pairs the pass over the whole data set packs together.
#pragma once

#include <cstdint>

namespace bipo {

// The tokens that a pass packs together at least, if there are that many: products with as many
// rows run close to the processor's peak.
constexpr std::int64_t kTokensPerPack = 512;

// The same on an accelerator, whose host asks for the same kernels whatever their rows.
constexpr std::int64_t kTokensPerDevicePack = 4096;

}  // namespace bipo
