// Reads a fuzzer's input as a data file, and checks what every pair that comes out must satisfy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/text/unicode_text.hpp"
#include "tests/fuzz/scratch_directory.hpp"

namespace bipo::fuzz {

inline void check_pair(const PreferencePair& pair) {
  const auto is_answer = [](const std::vector<Message>& turns) {
    return std::any_of(turns.begin(), turns.end(), [](const Message& turn) {
      return turn.role == "assistant" && is_utf8(turn.content);
    });
  };
  if (pair.prompt.empty() || !is_answer(pair.chosen) || !is_answer(pair.rejected)) {
    throw std::logic_error(pair.where + ": accepted, but no valid pair");
  }
}

inline void read_pairs(const std::string& name, const std::uint8_t* data, std::size_t size) {
  const std::filesystem::path file = input_file(name, data, size);
  for (const BadRows bad_rows : {BadRows::kRefuse, BadRows::kSkip}) {
    try {
      for (const PreferencePair& pair : read_preference_pairs(file, bad_rows).pairs) {
        check_pair(pair);
      }
    } catch (const UserError&) {
      // The right answer to a bad file; anything else is a finding.
    }
  }
}

}  // namespace bipo::fuzz
