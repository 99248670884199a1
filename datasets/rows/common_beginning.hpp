// Rows whose prompt is what chosen and rejected have in common, as TRL's extract_prompt takes it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

struct PartedTurns {
  std::vector<Message> prompt;
  std::vector<Message> chosen;
  std::vector<Message> rejected;
};

// The prompt is all turns before the first that differs, but at most all except the last turn of
// the shorter conversation.
PartedTurns part_conversations(const std::vector<Message>& chosen,
                               const std::vector<Message>& rejected);

struct PartedTexts {
  std::string prompt;
  std::string chosen;
  std::string rejected;
};

// The prompt is the common characters, less a space at their end; at most all except the last
// character of the shorter text.
PartedTexts part_texts(std::string_view chosen, std::string_view rejected);

// Whether the text is a dialogue of HH-RLHF: "\n\nHuman: ...\n\nAssistant: ...".
bool is_transcript(std::string_view text);

// Returns the turns of such a text, each verbatim but for the space after its mark.
std::vector<Message> transcript_turns(std::string_view text);

}  // namespace bipo
