// Reads model.safetensors.index.json, which says in which file of a model's directory each tensor
// is.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace bipo {

// File name by tensor.  Throws UserError for an index that is malformed, names a tensor twice, or
// leads to anything but a plain *.safetensors file name, so that no index leads out of the
// directory, and one that names all files which are not there.
std::map<std::string, std::string> read_shard_index(const std::filesystem::path& path);

}  // namespace bipo
