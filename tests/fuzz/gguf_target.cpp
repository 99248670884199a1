// Fuzzes the reader of GGUF files: metadata, tensors, configuration, weights and tokenizer.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokens/model_text.hpp"
#include "tests/fuzz/exercise_tokenizer.hpp"
#include "tests/fuzz/scratch_directory.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/gguf/gguf_model.hpp"

namespace {

using bipo::GgufFile;

// A part that is refused must not keep the others from being tried.
template <typename Action>
void try_out(const Action& action) {
  try {
    action();
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
}

// Each accessor, whatever the value's type.
void read_values(const GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    value.integer();
    value.number();
    value.boolean();
    value.text();
    value.integers();
    value.floats();
    value.texts();
  }
}

void decode_first_rows(const GgufFile& file) {
  for (const auto& [name, tensor] : file.tensors()) {
    std::vector<float> row(static_cast<std::size_t>(tensor.shape.back()));
    bipo::dequantize(tensor.format, tensor.data.data(), {0, tensor.shape.back()}, row.data());
  }
}

void read_all(const std::filesystem::path& path) {
  const auto file = std::make_shared<const GgufFile>(path);
  file->fingerprint();
  read_values(*file);
  decode_first_rows(*file);
  try_out([&] { bipo::open_gguf_weights(file, bipo::read_gguf_config(*file)); });
  try_out([&] { bipo::fuzz::exercise(bipo::read_gguf_text(*file).tokenizer); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = bipo::fuzz::input_file("model.gguf", data, size);
  try_out([&] { read_all(path); });
  return 0;
}
