// The content of a tokenizer.json, checked and in the terms of this folder.
#pragma once

#include <filesystem>

#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {

// Throws UserError naming the file and the place in it for whatever is missing, malformed or not
// implemented.  A post-processor must be known but has no effect on ids without special tokens;
// truncation and padding are the caller's business, as they are in transformers.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path);

}  // namespace bipo
