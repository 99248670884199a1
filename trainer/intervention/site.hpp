// At which place of a block a vector acts.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bipo {

// kBlock: the block's output, which is the residual stream behind it.  kMlp: what the block's MLP
// returns, as the module of that name in transformers does: before the norm that some families have
// behind it, before a factor, and before it is added to the residual stream.
enum class Site { kBlock, kMlp };

// Returns {"block", "mlp"}, in the order of the enumeration.
const std::vector<std::string>& site_names();

std::string to_string(Site site);

// Throws UserError with the rule that the text breaks.
Site parse_site(std::string_view text);

// A site of one block.
struct SteeredPlace {
  std::int64_t layer = 0;  // the block, from 0
  Site site = Site::kBlock;

  // From an integer, because block outputs are the usual case.
  SteeredPlace(std::int64_t block, Site where = Site::kBlock) : layer(block), site(where) {}

  bool operator==(const SteeredPlace&) const = default;
  // By the order in which a pass comes to them.
  std::strong_ordering operator<=>(const SteeredPlace& other) const {
    return std::pair(layer, site == Site::kBlock) <=>
           std::pair(other.layer, other.site == Site::kBlock);
  }

  // Returns how many blocks a pass runs whole before the place: their last output depends on
  // nothing that acts there.
  std::int64_t blocks_before() const { return layer + (site == Site::kBlock ? 1 : 0); }
};

// Returns "layer 5", or "the MLP of layer 5".
std::string place_text(const SteeredPlace& place);

}  // namespace bipo
