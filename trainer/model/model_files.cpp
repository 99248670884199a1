#include "trainer/model/model_files.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "trainer/model/gguf_config.hpp"
#include "trainer/model/gguf_weights.hpp"
#include "trainer/model/lora_weights.hpp"

namespace bipo {
namespace {

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& model) {
  std::error_code unreachable;
  if (!std::filesystem::is_regular_file(model, unreachable)) {
    throw UserError(fmt::format(
        "--model {}: no such directory or file; it takes a Hugging Face model directory "
        "(config.json, tokenizer.json, *.safetensors) or a GGUF file",
        model.string()));
  }
  return std::make_shared<GgufFile>(model);
}

}  // namespace

bool names_directory(const std::filesystem::path& model) {
  std::error_code unreachable;
  return std::filesystem::is_directory(model, unreachable);
}

ModelFiles open_model(const std::filesystem::path& model, const std::filesystem::path& adapter) {
  const bool is_directory = names_directory(model);
  ModelFiles files;
  if (is_directory) {
    files.config = read_model_config(model);
    files.weights = open_safetensors(model, files.config);
  } else {
    const auto file = open_gguf(model);
    files.config = read_gguf_config(*file);
    files.weights = open_gguf_weights(file, files.config);
  }
  if (!adapter.empty()) {
    files.weights = merge_lora(adapter, std::move(files.weights), files.config);
  }
  ContentHash hash;
  hash.add(files.weights->fingerprint());
  if (is_directory) {
    hash.add(content_of(model / "config.json"));
  }
  files.fingerprint = hash.value();
  return files;
}

ModelConfig read_config(const std::filesystem::path& model) {
  return names_directory(model) ? read_model_config(model) : read_gguf_config(*open_gguf(model));
}

}  // namespace bipo
