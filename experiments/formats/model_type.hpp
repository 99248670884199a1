// The type of a model by the names of other programs.
#pragma once

#include <optional>
#include <string>

namespace bipo {

// Returns what repeng 0.4 and llama-cvector-generator store as controlvector.model_hint for the
// model that a run file names (a path, or a name in the Hugging Face cache): the model_type of its
// config.json, or the general.architecture of a GGUF file.  Returns nothing where the model is not
// there or does not say it.  Throws EnvironmentError.
std::optional<std::string> model_type_of(const std::string& model);

}  // namespace bipo
