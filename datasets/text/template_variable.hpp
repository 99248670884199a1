// Names that no variable of a chat template can have.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace bipo {

// Whether transformers' apply_chat_template (5.23.0) has a parameter of its own of this name, so
// that a value given by it never reaches the template.
inline bool is_parameter_of_rendering(std::string_view name) {
  constexpr std::array<std::string_view, 14> kParameters = {
      "conversation",     "messages",
      "chat_template",    "add_generation_prompt",
      "tokenize",         "continue_final_message",
      "padding",          "sanitize_control_tokens",
      "truncation",       "max_length",
      "return_tensors",   "return_dict",
      "tokenizer_kwargs", "return_assistant_tokens_mask"};
  return std::find(kParameters.begin(), kParameters.end(), name) != kParameters.end();
}

}  // namespace bipo
