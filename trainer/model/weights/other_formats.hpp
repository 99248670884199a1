// What else a directory may hold in place of, or beside, the safetensors of a model.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bipo {

// Throws UserError for a directory with a config.json and neither model.safetensors nor an index:
// names the weights that it has in another format, and what converts them.
[[noreturn]] void refuse_without_safetensors(const std::filesystem::path& directory);

// Throws UserError for a directory without config.json if what it holds tells what it is: an
// adapter, GGUF files, weights in the format of their makers.
void refuse_without_config(const std::filesystem::path& directory);

// Returns the shards ("model-00001-of-00002.safetensors") of the directory that are not `used`,
// file names in order.
std::vector<std::string> other_shards(const std::filesystem::path& directory,
                                      const std::vector<std::filesystem::path>& used);

}  // namespace bipo
