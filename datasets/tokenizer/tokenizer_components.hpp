// Reads the normalizer, the pre-tokenizer and the decoder of a tokenizer.json.
#pragma once

#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/normalizer.hpp"
#include "datasets/tokenizer/pre_tokenizer.hpp"
#include "datasets/tokenizer/text_decoder.hpp"

namespace bipo {

// Each takes the whole document, where null and absent mean none, and throws UserError naming the
// place for anything malformed or not implemented.
Normalizer read_normalizer(const JsonNode& root);
PreTokenizer read_pre_tokenizer(const JsonNode& root, const Normalizer& normalizer);
TextDecoder read_decoder(const JsonNode& root);

// The "type" of a component.
std::string type_of(const JsonNode& component);

// Throws UserError: `type` is not implemented, `implemented` is.
[[noreturn]] void refuse_component(const JsonNode& node, std::string_view type,
                                   std::string_view implemented);

}  // namespace bipo
