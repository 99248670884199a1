// Fuzzes the reader of safetensors files.
#include <cstddef>
#include <cstdint>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "tests/fuzz/scratch_directory.hpp"
#include "trainer/model/weights/safetensors.hpp"

namespace {

// Every tensor that can be sliced by rows: all of it, so that each byte of its data is touched.
void read_all(const bipo::SafetensorsFile& file) {
  bipo::ContentHash hash;
  for (const auto& [name, entry] : file.entries()) {
    file.add_sample(name, hash);
    if (entry.shape.size() == 1) {
      file.read(name, {{0, entry.shape[0]}, {}});
    } else if (entry.shape.size() == 2) {
      file.read(name, {{0, entry.shape[0]}, {0, entry.shape[1]}});
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = bipo::fuzz::input_file("model.safetensors", data, size);
  try {
    read_all(bipo::SafetensorsFile(path));
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  return 0;
}
