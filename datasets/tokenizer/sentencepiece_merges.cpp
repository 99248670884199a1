// The merges by which byte-pair encoding does what a SentencePiece vocabulary of scores says.
#include "datasets/tokenizer/sentencepiece_merges.hpp"

#include <algorithm>
#include <tuple>

#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

struct ScoredMerge {
  std::string_view left;
  std::string_view right;
  float score = 0;
  std::size_t left_characters = 0;
  std::size_t right_characters = 0;
  TokenId left_id = 0;
  TokenId right_id = 0;
};

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (; !text.empty(); text.remove_prefix(first_character(text).size())) {
    ++count;
  }
  return count;
}

// The cuts of `token` into two others, by their ids.
std::vector<ScoredMerge> merges_into(std::string_view token, float score,
                                     const Vocabulary& vocabulary) {
  std::vector<ScoredMerge> merges;
  const std::size_t characters = count_characters(token);
  std::size_t cut = 0;
  for (std::size_t left = 1; left < characters; ++left) {
    cut += first_character(token.substr(cut)).size();
    const auto first = vocabulary.find(token.substr(0, cut));
    const auto second = vocabulary.find(token.substr(cut));
    if (first != vocabulary.end() && second != vocabulary.end()) {
      merges.push_back({first->first, second->first, score, left, characters - left, first->second,
                        second->second});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const ScoredMerge& a, const ScoredMerge& b) {
    return std::tie(a.left_id, a.right_id) < std::tie(b.left_id, b.right_id);
  });
  return merges;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> sentencepiece_merges(
    const std::vector<std::string>& tokens, const std::vector<float>& scores,
    const Vocabulary& vocabulary) {
  std::vector<ScoredMerge> merges;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const std::vector<ScoredMerge> more = merges_into(tokens[id], scores[id], vocabulary);
    merges.insert(merges.end(), more.begin(), more.end());
  }
  std::stable_sort(merges.begin(), merges.end(), [](const ScoredMerge& a, const ScoredMerge& b) {
    return std::tie(a.score, a.left_characters, a.right_characters) >
           std::tie(b.score, b.left_characters, b.right_characters);
  });
  std::vector<std::pair<std::string, std::string>> pairs;
  pairs.reserve(merges.size());
  for (const ScoredMerge& merge : merges) {
    pairs.emplace_back(merge.left, merge.right);
  }
  return pairs;
}

}  // namespace bipo
