// Fuzzes what becomes of the rows of Arrow and Parquet files, and the library that reads them.
#include "tests/fuzz/read_pairs.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bipo::fuzz::read_pairs("data.arrow", data, size);
  bipo::fuzz::read_pairs("data.parquet", data, size);
  return 0;
}
