// Fuzzes the reader of compressed data files.
#include "tests/fuzz/read_pairs.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bipo::fuzz::read_pairs("data.csv.gz", data, size);
  bipo::fuzz::read_pairs("data.jsonl.gz", data, size);
  return 0;
}
