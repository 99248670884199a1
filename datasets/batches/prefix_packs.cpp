#include "datasets/batches/prefix_packs.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>

namespace bipo {

std::vector<std::vector<std::int64_t>> device_packs(const std::vector<std::int64_t>& tokens,
                                                    std::int64_t most) {
  std::vector<std::vector<std::int64_t>> packs;
  std::int64_t longest = 0;  // of the last pack
  for (std::size_t item = 0; item < tokens.size(); ++item) {
    longest = std::max(longest, tokens[item]);
    if (packs.empty() || !fit_into_device_pack(std::ssize(packs.back()) + 1, longest, most)) {
      packs.emplace_back();
      longest = tokens[item];
    }
    packs.back().push_back(static_cast<std::int64_t>(item));
  }
  return packs;
}

}  // namespace bipo
