// Reads the text part of a model as --model names it: a Hugging Face directory or a GGUF file.
#pragma once

#include <filesystem>

#include "datasets/model_text.hpp"

namespace bipo {

// See read_model_text() and read_gguf_text().  Throws UserError.
ModelText open_model_text(const std::filesystem::path& model);

}  // namespace bipo
