// The tokenizer of a Hugging Face model directory, as transformers makes it of all its files.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {

struct DirectoryTokenizer {
  Tokenizer tokenizer;
  SpecialTokens special;
  std::map<std::string, std::string> named;  // special tokens' texts by the names of templates
  std::vector<std::string> warnings;         // where files or versions disagree
};

// Reads tokenizer.json, and beside it, as far as they are there, tokenizer_config.json,
// special_tokens_map.json, added_tokens.json, config.json and generation_config.json.  Follows
// transformers 5.23.0, or 4.57.6 where the directory says that version 4 wrote it
// ("transformers_version"), and warns where the two disagree.  The end tokens are those of all
// files.  Throws UserError naming the file for one that is missing, malformed or not implemented.
DirectoryTokenizer read_directory_tokenizer(const std::filesystem::path& directory);

}  // namespace bipo
