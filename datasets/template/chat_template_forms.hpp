// The chat formats that are known by name, each as a template.
#pragma once

#include <span>
#include <string_view>

namespace bipo {

struct ChatForm {
  std::string_view name;  // as users of llama.cpp know it
  std::string_view jinja;
};

// Of a format that others are mistaken for, the stricter one comes first.
std::span<const ChatForm> chat_forms();

// A prompt, a line break, the answer: the form for models without chat tuning.
inline constexpr std::string_view kPlainForm = "plain";

}  // namespace bipo
