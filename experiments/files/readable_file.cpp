#include "experiments/files/readable_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {

void require_readable_file(const std::filesystem::path& path, const std::string& kind,
                           const std::string& command) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw UserError(fmt::format("{}: no such file; name {} that `bipo-dist {}` wrote",
                                path.string(), kind, command));
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw UserError(fmt::format("{}: is not a file; name {}", path.string(), kind));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    throw UserError(fmt::format("{}: cannot be read: {}; change its permissions or name another",
                                path.string(), std::generic_category().message(errno)));
  }
}

}  // namespace bipo
