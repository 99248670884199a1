// Fuzzes the reader of GGUF files: metadata, tensors, configuration, weights and tokenizer.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "collectives/errors.hpp"
#include "datasets/gguf_tokenizer.hpp"
#include "tests/fuzz/exercise_tokenizer.hpp"
#include "tests/fuzz/scratch_directory.hpp"
#include "trainer/model/gguf_config.hpp"
#include "trainer/model/gguf_weights.hpp"

namespace {

using bipo::GgufFile;
using bipo::GgufValue;

// A part that is refused must not keep the others from being tried.
template <typename Action>
void try_out(const Action& action) {
  try {
    action();
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
}

std::vector<std::string> texts(const GgufFile& file, const char* key) {
  const GgufValue* value = file.find_value(key);
  const auto found = value == nullptr ? std::nullopt : value->texts();
  return found ? std::vector<std::string>(found->begin(), found->end())
               : std::vector<std::string>();
}

bipo::GgufVocabulary vocabulary_of(const GgufFile& file) {
  bipo::GgufVocabulary vocabulary;
  const auto text = [&](const char* key) {
    const GgufValue* value = file.find_value(key);
    return std::string(value == nullptr ? "" : value->text().value_or(""));
  };
  vocabulary.model = text("tokenizer.ggml.model");
  vocabulary.pre = text("tokenizer.ggml.pre");
  vocabulary.tokens = texts(file, "tokenizer.ggml.tokens");
  vocabulary.merges = texts(file, "tokenizer.ggml.merges");
  if (const GgufValue* scores = file.find_value("tokenizer.ggml.scores")) {
    vocabulary.scores = scores->floats().value_or(std::vector<float>());
  }
  if (const GgufValue* types = file.find_value("tokenizer.ggml.token_type")) {
    vocabulary.token_type = types->integers().value_or(std::vector<std::int64_t>());
  }
  if (const GgufValue* prefix = file.find_value("tokenizer.ggml.add_space_prefix")) {
    vocabulary.add_space_prefix = prefix->boolean();
  }
  if (const GgufValue* unknown = file.find_value("tokenizer.ggml.unknown_token_id")) {
    vocabulary.unknown_token_id = unknown->integer();
  }
  return vocabulary;
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
  try_out([&] { bipo::fuzz::exercise(bipo::Tokenizer::from_gguf(vocabulary_of(*file))); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = bipo::fuzz::input_file("model.gguf", data, size);
  try_out([&] { read_all(path); });
  return 0;
}
