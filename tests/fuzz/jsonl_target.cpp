// Fuzzes the reader of JSON Lines data files.
#include "tests/fuzz/read_pairs.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bipo::fuzz::read_pairs("data.jsonl", data, size);
  return 0;
}
