// Fuzzes the reader of JSON data files.
#include "tests/fuzz/read_pairs.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bipo::fuzz::read_pairs("data.json", data, size);
  return 0;
}
