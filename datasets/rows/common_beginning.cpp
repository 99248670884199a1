#include "datasets/rows/common_beginning.hpp"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>

#include "datasets/text/data_text.hpp"

namespace bipo {
namespace {

constexpr std::string_view kHuman = "\n\nHuman:";
constexpr std::string_view kAssistant = "\n\nAssistant:";

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
}

// Moves back to where a character begins.
std::size_t character_begin(std::string_view text, std::size_t at) {
  while (at > 0 && at < text.size() && is_continuation(text[at])) {
    --at;
  }
  return at;
}

std::vector<Message> from(const std::vector<Message>& turns, std::size_t first) {
  return {turns.begin() + static_cast<std::ptrdiff_t>(first), turns.end()};
}

// Members in another order are the same members, as in Python.
bool are_equal(const Message& a, const Message& b) {
  return a.role == b.role && a.content == b.content &&
         (a.extra == b.extra || nlohmann::json(a.extra) == nlohmann::json(b.extra));
}

}  // namespace

PartedTurns part_conversations(const std::vector<Message>& chosen,
                               const std::vector<Message>& rejected) {
  const std::size_t shorter = std::min(chosen.size(), rejected.size());
  const auto longest = static_cast<std::ptrdiff_t>(std::max<std::size_t>(shorter, 1) - 1);
  const auto parting =
      std::mismatch(chosen.begin(), chosen.begin() + longest, rejected.begin(), are_equal).first;
  const auto at = static_cast<std::size_t>(parting - chosen.begin());
  return {{chosen.begin(), parting}, from(chosen, at), from(rejected, at)};
}

PartedTexts part_texts(std::string_view chosen, std::string_view rejected) {
  const std::size_t shorter = std::min(chosen.size(), rejected.size());
  std::size_t at = 0;
  while (at < shorter && chosen[at] == rejected[at]) {
    ++at;
  }
  if (at == shorter && shorter > 0) {
    --at;  // equal up to the end of one: its last character is its answer
    at = character_begin(chosen, at);
  } else {
    at = std::min(character_begin(chosen, at), character_begin(rejected, at));
    if (at > 0 && chosen[at - 1] == ' ') {
      --at;
    }
  }
  return {std::string(chosen.substr(0, at)), std::string(chosen.substr(at)),
          std::string(rejected.substr(at))};
}

bool is_transcript(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.starts_with(kHuman.substr(2)) && text.find(kAssistant) != std::string_view::npos;
}

std::vector<Message> transcript_turns(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  std::vector<Message> turns;
  std::string_view mark = kHuman.substr(2);  // without the line breaks before it
  while (!text.empty()) {
    text.remove_prefix(mark.size());
    if (text.starts_with(' ')) {
      text.remove_prefix(1);
    }
    const std::size_t human = text.find(kHuman);
    const std::size_t assistant = text.find(kAssistant);
    const std::size_t end = std::min({human, assistant, text.size()});
    const bool is_human = mark.ends_with(kHuman.substr(2));
    turns.push_back({is_human ? "user" : "assistant", std::string(text.substr(0, end))});
    text.remove_prefix(end);
    mark = human < assistant ? kHuman : kAssistant;
  }
  return turns;
}

}  // namespace bipo
