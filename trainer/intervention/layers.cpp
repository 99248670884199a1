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

std::vector<SteeredPlace> SteeredLayers::places() const {
  std::vector<SteeredPlace> places;
  for (const std::int64_t layer : blocks_) {
    places.push_back({layer, site_});
  }
  return places;
}

std::string to_string(const SteeredLayers& layers, const char* separator) {
  return fmt::format("{}", fmt::join(layers.blocks(), separator));
}

std::string layers_text(const SteeredLayers& layers) {
  const char* const plural = layers.count() == 1 ? "" : "s";
  return fmt::format("{}layer{} {}",
                     layers.site() == Site::kMlp ? fmt::format("the MLP{} of ", plural) : "",
                     plural, to_string(layers));
}

std::string prefix_text(const SteeredLayers& layers) {
  const std::int64_t blocks = layers.blocks_before();
  return blocks == 0 ? "the embedding" : fmt::format("blocks 0..{}", blocks - 1);
}

}  // namespace bipo
