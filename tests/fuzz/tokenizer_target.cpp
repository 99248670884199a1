// Fuzzes the reader of tokenizer.json, and the tokenizers that it makes.
#include <cstddef>
#include <cstdint>

#include "collectives/foundation/errors.hpp"
#include "tests/fuzz/exercise_tokenizer.hpp"
#include "tests/fuzz/scratch_directory.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = bipo::fuzz::input_file("tokenizer.json", data, size);
  try {
    bipo::fuzz::exercise(bipo::Tokenizer::from_file(path));
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  return 0;
}
