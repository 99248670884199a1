// Models in the local cache of the Hugging Face Hub, by their names there.  Reads what is on the
// disk; never uses the network.
#pragma once

#include <filesystem>
#include <string>

namespace bipo {

// Returns the cache's directory as huggingface_hub 2.4.0 finds it (constants.py): $HF_HUB_CACHE, or
// $HUGGINGFACE_HUB_CACHE, or hub in $HF_HOME, which is by default huggingface in $XDG_CACHE_HOME or
// ~/.cache.  A leading ~ and variables in these are replaced.
std::filesystem::path hub_cache_directory();

struct ModelPlace {
  std::filesystem::path path;
  std::string note;  // which snapshot was chosen; empty if the path is the given one
};

// Finds what --model or --adapter names.  A path that exists is meant itself, except a cache folder
// (models--OWNER--NAME), of which the snapshot is meant.  Otherwise OWNER/NAME, or the name of a
// cache folder, is looked up in the cache, with "@REVISION" (a branch, a tag or a commit; default:
// main) behind it if wanted.  Returns the given path if the cache does not know it.  Throws
// UserError, with the command that downloads the model, if the cache knows it but not that
// revision.
ModelPlace find_model(const std::filesystem::path& given);

// As find_model(given).path, but returns the given path instead of an error.
std::filesystem::path resolved_model_path(const std::filesystem::path& given);

// Returns how to get missing files of a model directory: "`hf download OWNER/NAME --revision ...`"
// in a snapshot of the cache, else "get the model again".
std::string download_advice(const std::filesystem::path& directory);

// Throws UserError if `directory` is a snapshot of the cache with links to files that are not
// there, or without the file `needed`.
void require_complete_snapshot(const std::filesystem::path& directory, const char* needed);

}  // namespace bipo
