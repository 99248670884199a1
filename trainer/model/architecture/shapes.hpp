// Architectures of well-known models by name, for measuring and planning without their files.
#pragma once

#include <array>
#include <string>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

inline constexpr std::array kShapeNames = {
    "llama-2-7b",  "llama-3.1-8b",  "llama-3.1-70b",  "smollm2-135m", "gemma-4-31b",
    "gemma-7b",    "gemma-3-12b",   "ministral-3-8b", "seed-oss-36b", "olmo-2-7b",
    "olmo-3-7b",   "exaone-4-1.2b", "granite-3.3-8b", "glm-4-9b",     "ernie-4.5-0.3b",
    "qwen-3.5-9b", "pythia-6.9b",   "phi-2",          "starcoder2-7b"};

// Returns the configuration of a named shape, or that of the config.json at the path.  Throws
// UserError for anything else.
ModelConfig read_shape(const std::string& name_or_path);

}  // namespace bipo
