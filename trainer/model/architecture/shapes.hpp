// Architectures of well-known models by name, for measuring and planning without their files.
#pragma once

#include <array>
#include <string>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

inline constexpr std::array kShapeNames = {"llama-2-7b", "llama-3.1-8b", "llama-3.1-70b",
                                           "smollm2-135m"};

// Returns the configuration of a named shape, or that of the config.json at the path.  Throws
// UserError for anything else.
ModelConfig read_shape(const std::string& name_or_path);

}  // namespace bipo
