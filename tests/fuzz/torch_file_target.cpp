// Fuzzes the reader of files of torch.save, and by itself that of the pickles in them.
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/pickle_values.hpp"
#include "experiments/formats/torch_file_reader.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    std::size_t numbers = 0;
    for (const bipo::NamedTensor& tensor : bipo::read_torch_tensors(bytes, "vector.pt")) {
      if (tensor.values.empty() ||
          tensor.values.size() % static_cast<std::size_t>(tensor.rows) != 0) {
        throw std::logic_error("a tensor without numbers, or with an unfinished row");
      }
      numbers += tensor.values.size();
    }
    if (numbers == 0 || numbers > size) {
      throw std::logic_error("no number, or more numbers than the file has bytes");
    }
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  try {
    const bipo::Pickle pickle = bipo::read_pickle(bytes, "vector.pt");
    std::size_t items = 0;
    for (const bipo::PickleValue& value : pickle.values) {
      items += value.items.size();
    }
    if (items > bipo::kMostPickleItems) {
      throw std::logic_error("more items than a pickle may have");
    }
  } catch (const bipo::UserError&) {
    // As above.
  }
  return 0;
}
