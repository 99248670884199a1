// The tokens that end a generated answer.
#pragma once

#include <vector>

#include "datasets/tokens/continuations.hpp"

namespace bipo {

// EOS, the model's further end tokens, and the special token, if there is one, by which the chat
// template ends an answer (Gemma's <end_of_turn>, which is not its EOS).  Each once, ascending.
std::vector<TokenId> stop_tokens(const TextTools& text);

}  // namespace bipo
