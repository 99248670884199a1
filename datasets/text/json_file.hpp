// Reads a whole file of JSON, or says why it cannot be read.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace bipo {

// Throws UserError naming the file when it is missing, unreadable, not JSON or nested without
// reason.
nlohmann::json read_json_file(const std::filesystem::path& path);

}  // namespace bipo
