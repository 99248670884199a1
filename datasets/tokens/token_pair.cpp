#include "datasets/tokens/token_pair.hpp"

#include "collectives/foundation/content_hash.hpp"

namespace bipo {

std::uint64_t tokens_hash(const std::vector<TokenPair>& pairs) {
  ContentHash hash;
  hash.add(std::uint64_t{pairs.size()});
  for (const TokenPair& pair : pairs) {
    for (const std::vector<TokenId>* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      hash.add(std::uint64_t{part->size()});
      hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
    }
  }
  return hash.value();
}

}  // namespace bipo
