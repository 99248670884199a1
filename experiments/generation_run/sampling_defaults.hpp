// The model's own settings of generation, of which only the end tokens are followed.
#pragma once

#include <string>
#include <vector>

namespace bipo {

struct GenerateOptions;  // experiments/settings/settings.hpp

// Returns one warning that names what generation_config.json sets, transformers' generate (5.23.0)
// would apply, and the options leave out; nothing if there is no such thing, or no such file.
// Throws UserError for a file that is not a JSON object.
std::vector<std::string> sampling_warnings(const GenerateOptions& options);

}  // namespace bipo
