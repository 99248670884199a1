// The settings that a file's `config` holds: as text, and compared when a run continues.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace bipo {

// As files hold it: JSON, whose strings are UTF-8 also where paths are not.
std::string settings_text(const nlohmann::ordered_json& settings);

// Returns the value of an integer setting.  Throws UserError where `config` has none.
std::int64_t stored_integer(const std::string& config, const std::string& name);

// Returns the settings in `config` that shape the result, as text: equal texts, equal results,
// whatever the order in `config`.
std::string result_settings(const std::string& config);

// Throws UserError, listing each difference, unless every setting that shapes the result is the
// same in both configurations; `file` holds the stored one.
void check_same_settings(const std::string& stored, const std::string& now,
                         const std::string& file);

// Warns of differences that may change last bits only.
std::vector<std::string> harmless_differences(const std::string& stored, const std::string& now);

}  // namespace bipo
