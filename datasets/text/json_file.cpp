// Reads a whole file of JSON, or says why it cannot be read.
#include "datasets/text/json_file.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"

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
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return parse_untrusted_json(text, path.string(), "download or convert it again");
}

}  // namespace bipo
