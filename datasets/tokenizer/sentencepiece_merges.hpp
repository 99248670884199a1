// The merges by which byte-pair encoding does what a SentencePiece vocabulary of scores says.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "datasets/tokenizer/bpe_model.hpp"

namespace bipo {

// Every way to make a token of two others, the highest score of the token first; among equal ones
// in the order of transformers' generate_merges, which wrote the tokenizer.json of such models.
// `tokens` are well-formed UTF-8, `scores` has one number, not NaN, for each, and `vocabulary`
// their indices.
std::vector<std::pair<std::string, std::string>> sentencepiece_merges(
    const std::vector<std::string>& tokens, const std::vector<float>& scores,
    const Vocabulary& vocabulary);

}  // namespace bipo
