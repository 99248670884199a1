// Fuzzes the reader of CSV data files.
#include "tests/fuzz/read_pairs.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bipo::fuzz::read_pairs("data.csv", data, size);
  return 0;
}
