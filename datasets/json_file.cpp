// Reads a whole file of JSON, or says why it cannot be read.
#include "datasets/json_file.hpp"

#include <fmt/format.h>

#include <fstream>

#include "collectives/errors.hpp"

namespace bipo {

nlohmann::json read_json_file(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) {
    throw UserError(fmt::format("{}: no such file", path.string()));
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    throw UserError(
        fmt::format("{}: the file cannot be opened; check its permissions", path.string()));
  }
  try {
    return nlohmann::json::parse(stream);
  } catch (const nlohmann::json::parse_error& error) {
    throw UserError(fmt::format("{}: not valid JSON at byte {} ({}); download or convert it again",
                                path.string(), error.byte, error.what()));
  }
}

}  // namespace bipo
