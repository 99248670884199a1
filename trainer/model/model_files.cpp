#include "trainer/model/model_files.hpp"

#include <fmt/format.h>

#include <string>
#include <system_error>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "datasets/tokens/model_text.hpp"
#include "trainer/model/gguf/gguf_model.hpp"
#include "trainer/model/lora/lora_weights.hpp"

namespace bipo {
namespace {

std::string content_of(const std::filesystem::path& path) {
  return read_input_file(path, kMostSettingsBytes);
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

bool names_directory(const std::filesystem::path& model) {
  std::error_code unreachable;
  return std::filesystem::is_directory(model, unreachable);
}

}  // namespace

ModelFiles open_model(const std::filesystem::path& model, const std::filesystem::path& adapter) {
  const bool is_directory = names_directory(model);
  ModelFiles files;
  files.path = model;
  if (is_directory) {
    files.config = read_model_config(model);
    files.weights = open_safetensors(model, files.config);
  } else {
    files.gguf = open_gguf(model);
    files.config = read_gguf_config(*files.gguf);
    files.weights = open_gguf_weights(files.gguf, files.config);
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

std::vector<std::string> ModelFiles::warnings() const {
  std::vector<std::string> all = config.warnings;
  const std::vector<std::string> of_weights = weights->warnings();
  all.insert(all.end(), of_weights.begin(), of_weights.end());
  return all;
}

ModelText ModelFiles::read_text() const {
  return gguf ? read_gguf_text(*gguf) : read_model_text(path);
}

ModelConfig read_config(const std::filesystem::path& model) {
  return names_directory(model) ? read_model_config(model) : read_gguf_config(*open_gguf(model));
}

ModelText read_text(const std::filesystem::path& model) {
  return names_directory(model) ? read_model_text(model) : read_gguf_text(*open_gguf(model));
}

}  // namespace bipo
