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
#include "trainer/model/hub/hub_cache.hpp"
#include "trainer/model/lora/lora_weights.hpp"
#include "trainer/model/weights/other_formats.hpp"

namespace bipo {
namespace {

std::string content_of(const std::filesystem::path& path) {
  return read_input_file(path, kMostSettingsBytes);
}

std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& model) {
  std::error_code unreachable;
  if (!std::filesystem::is_regular_file(model, unreachable)) {
    throw UserError(fmt::format(
        "--model {}: no such directory or file, and no such model in the local Hugging Face cache "
        "({}); it takes a Hugging Face model directory (config.json, tokenizer.json, "
        "*.safetensors), a GGUF file, or the name of a model that was downloaded with "
        "`hf download OWNER/NAME`",
        model.string(), hub_cache_directory().string()));
  }
  return std::make_shared<GgufFile>(model);
}

bool names_directory(const std::filesystem::path& model) {
  std::error_code unreachable;
  return std::filesystem::is_directory(model, unreachable);
}

bool names_gguf(const std::filesystem::path& path) {
  std::error_code unreachable;
  return std::filesystem::exists(path, unreachable) && !names_directory(path) &&
         InputFile(path).begins_with("GGUF");
}

bool has_file(const std::filesystem::path& directory, const char* name) {
  std::error_code unreachable;
  return std::filesystem::exists(directory / name, unreachable);
}

ModelConfig read_directory_config(const std::filesystem::path& directory) {
  if (!has_file(directory, "config.json")) {
    refuse_without_config(directory);
  }
  require_complete_snapshot(directory, "config.json");
  return read_model_config(directory);
}

ModelText read_directory_text(const std::filesystem::path& directory) {
  if (!has_file(directory, "tokenizer.model")) {  // else read_model_text tells how to convert it
    require_complete_snapshot(directory, "tokenizer.json");
  }
  return read_model_text(directory);
}

// transformers with PEFT installed applies the adapter on top of the weights beside it.
void name_adapter_beside(const std::filesystem::path& model, const std::filesystem::path& adapter,
                         std::vector<std::string>& warnings) {
  std::error_code unreachable;
  if (has_file(model, "adapter_config.json") &&
      !std::filesystem::equivalent(model, adapter, unreachable)) {
    warnings.push_back(fmt::format(
        "{}: the adapter beside the model (adapter_config.json) is not applied; transformers does "
        "apply it if PEFT is installed, also to weights that it was merged into: remove it, or "
        "give it as --adapter if the weights are those of its base",
        model.string()));
  }
}

void add_note(const ModelPlace& place, const char* option, std::vector<std::string>& notes) {
  if (!place.note.empty()) {
    notes.push_back(fmt::format("{} {}", option, place.note));
  }
}

}  // namespace

ModelFiles open_model(const std::filesystem::path& model, const std::filesystem::path& adapter) {
  const ModelPlace place = find_model(model);
  const ModelPlace place_of_adapter = find_model(adapter);
  const bool is_directory = names_directory(place.path);
  ModelFiles files;
  files.path = place.path;
  files.adapter = place_of_adapter.path;
  add_note(place, "--model", files.notes);
  add_note(place_of_adapter, "--adapter", files.notes);
  if (is_directory) {
    files.config = read_directory_config(place.path);
    files.weights = open_safetensors(place.path, files.config);
    name_adapter_beside(place.path, place_of_adapter.path, files.notes);
  } else {
    files.gguf = open_gguf(place.path);
    files.config = read_gguf_config(*files.gguf);
    files.weights = open_gguf_weights(files.gguf, files.config);
  }
  if (!adapter.empty()) {
    files.weights =
        names_gguf(place_of_adapter.path)
            ? merge_gguf_lora(place_of_adapter.path, std::move(files.weights), files.config)
            : merge_lora(place_of_adapter.path, std::move(files.weights), files.config, model);
  }
  ContentHash hash;
  hash.add(files.weights->fingerprint());
  if (is_directory) {
    hash.add(content_of(place.path / "config.json"));
  }
  files.fingerprint = hash.value();
  return files;
}

std::vector<std::string> ModelFiles::warnings() const {
  std::vector<std::string> all = notes;
  all.insert(all.end(), config.warnings.begin(), config.warnings.end());
  const std::vector<std::string> of_weights = weights->warnings();
  all.insert(all.end(), of_weights.begin(), of_weights.end());
  return all;
}

ModelText ModelFiles::read_text() const {
  return gguf ? read_gguf_text(*gguf) : read_directory_text(path);
}

ModelConfig read_config(const std::filesystem::path& model) {
  const std::filesystem::path path = find_model(model).path;
  return names_directory(path) ? read_directory_config(path) : read_gguf_config(*open_gguf(path));
}

ModelText read_text(const std::filesystem::path& model) {
  const std::filesystem::path path = find_model(model).path;
  return names_directory(path) ? read_directory_text(path) : read_gguf_text(*open_gguf(path));
}

}  // namespace bipo
