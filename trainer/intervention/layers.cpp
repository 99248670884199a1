#include "trainer/intervention/layers.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo {

SteeredLayers::SteeredLayers(std::vector<std::int64_t> blocks) : blocks_(std::move(blocks)) {
  const bool is_ascending =
      std::adjacent_find(blocks_.begin(), blocks_.end(), std::greater_equal<>()) == blocks_.end();
  if (blocks_.empty() || !is_ascending) {
    throw BugError(fmt::format("steered layers that do not ascend: {}", fmt::join(blocks_, ", ")));
  }
}

std::string to_string(const SteeredLayers& layers, const char* separator) {
  return fmt::format("{}", fmt::join(layers.blocks(), separator));
}

std::string layers_text(const SteeredLayers& layers) {
  return fmt::format("layer{} {}", layers.count() == 1 ? "" : "s", to_string(layers));
}

}  // namespace bipo
