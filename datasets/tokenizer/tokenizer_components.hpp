// Reads the normalizer, the pre-tokenizer and the decoder of a tokenizer.json.
#pragma once

#include "datasets/text/json_node.hpp"
#include "datasets/tokenizer/normalizer.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"
#include "datasets/tokenizer/text_decoder.hpp"

namespace bipo {

// Each takes the whole document, where null and absent mean none, and throws UserError naming the
// place for what is malformed or not implemented.
Normalizer read_normalizer(const JsonNode& root);
PreTokenizer read_pre_tokenizer(const JsonNode& root, const Normalizer& normalizer);
TextDecoder read_decoder(const JsonNode& root);

// The "type" of a component.
std::string type_of(const JsonNode& component);

bool flag_or(const JsonNode& node, std::string_view key, bool fallback);

// Says that `type` is not implemented and `implemented` is.
[[noreturn]] void refuse_component(const JsonNode& node, std::string_view type,
                                   std::string_view implemented);

}  // namespace bipo
