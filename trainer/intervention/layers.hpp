// Which blocks one training steers together.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "trainer/intervention/site.hpp"

namespace bipo {

// S blocks, from 0, at whose site, the same for all, a vector each is added.  Their vectors are
// trained together, as the parts of one flat vector [S D], that of the lowest block first.
class SteeredLayers {
 public:
  // One block; from an integer, because that is the usual case.
  SteeredLayers(std::int64_t layer) : blocks_{layer} {}
  // Throws BugError unless there is one block at least and each is above the one before.
  explicit SteeredLayers(std::vector<std::int64_t> blocks);

  std::int64_t lowest() const { return blocks_.front(); }
  std::int64_t highest() const { return blocks_.back(); }
  std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }  // S
  const std::vector<std::int64_t>& blocks() const& { return blocks_; }
  std::vector<std::int64_t> blocks() && { return std::move(blocks_); }  // of what ends here
  Site site() const { return site_; }
  // Returns the same blocks with another site.
  SteeredLayers at(Site site) const {
    SteeredLayers layers = *this;
    layers.site_ = site;
    return layers;
  }
  std::vector<SteeredPlace> places() const;  // ascending
  // Returns the blocks that run whole before anything is added, see SteeredPlace.
  std::int64_t blocks_before() const { return SteeredPlace{lowest(), site_}.blocks_before(); }
  bool operator==(const SteeredLayers&) const = default;

 private:
  std::vector<std::int64_t> blocks_;  // ascending
  Site site_ = Site::kBlock;
};

// Returns the numbers with `separator` between them.
std::string to_string(const SteeredLayers& layers, const char* separator = ",");

// Returns "layer 5" or "layers 5,10,15", or "the MLPs of layers 5,10,15".
std::string layers_text(const SteeredLayers& layers);

// Returns what runs before anything is added: "blocks 0..5", or "the embedding".
std::string prefix_text(const SteeredLayers& layers);

}  // namespace bipo
