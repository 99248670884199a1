// Fuzzes the reader of files of numpy.save.
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/npy_reader.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const bipo::NamedTensor tensor = bipo::read_npy(bytes, "vector.npy");
    if (tensor.values.empty() || tensor.values.size() > size ||
        tensor.values.size() % static_cast<std::size_t>(tensor.rows) != 0) {
      throw std::logic_error("no number, an unfinished row, or more numbers than bytes");
    }
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  return 0;
}
