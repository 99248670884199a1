// How many pairs the pass over the whole data set packs together.
#pragma once

#include <cstdint>
#include <vector>

namespace bipo {

// The tokens that a pass packs together at least, if there are that many: products with as many
// rows run close to the processor's peak.
constexpr std::int64_t kTokensPerPack = 512;

// The tokens that a pass on an accelerator packs together at most, whose host asks for the same
// kernels whatever their rows: those of all items if each were as long as the longest of them,
// because attention pads to it.  A pack of short items and a long one would take many times what
// the long one takes alone.
constexpr std::int64_t kTokensPerDevicePack = 4096;

// Returns whether items, the longest of which has so many tokens, are a pack of `most` tokens.
constexpr bool fit_into_device_pack(std::int64_t items, std::int64_t longest, std::int64_t most) {
  return items * longest <= most;
}

// Returns the packs of items with so many tokens each: consecutive ones, as many as fit into `most`
// tokens, or one that is longer by itself.
std::vector<std::vector<std::int64_t>> device_packs(const std::vector<std::int64_t>& tokens,
                                                    std::int64_t most);

}  // namespace bipo
