// When a begin-of-sequence token is put before a text.
#pragma once

namespace bipo {

enum class BosRule {
  kAuto,    // a chat template's text as it is; a plain text by the tokenizer's own rule
  kAlways,  // before every prompt that does not begin with it
  kNever,
  // Version 0.1's two, for runs of that time: kAlways wherever the model's files name a BOS, and
  // kNever.
  kEarlier,
  kEarlierNever,
};

}  // namespace bipo
