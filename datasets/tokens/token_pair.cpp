#include "datasets/tokens/token_pair.hpp"

#include <algorithm>

#include "collectives/foundation/content_hash.hpp"

namespace bipo {
namespace {

void add_scored(ContentHash& hash, const ScoredTokens& scored) {
  hash.add(std::uint64_t{scored.size()});
  for (const bool is_scored : scored) {
    hash.add(std::uint64_t{is_scored});
  }
}

}  // namespace

std::int64_t scored_count(const ScoredTokens& scored, std::size_t length) {
  return scored.empty() ? static_cast<std::int64_t>(length)
                        : std::count(scored.begin(), scored.end(), true);
}

std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs) {
  ContentHash hash;
  hash.add(std::uint64_t{pairs.size()});
  for (const TokenPair& pair : pairs) {
    for (const std::vector<TokenId>* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      hash.add(std::uint64_t{part->size()});
      hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
    }
    if (!pair.chosen_scored.empty() || !pair.rejected_scored.empty()) {
      add_scored(hash, pair.chosen_scored);
      add_scored(hash, pair.rejected_scored);
    }
  }
  return hash.value();
}

}  // namespace bipo
