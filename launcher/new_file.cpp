#include "launcher/new_file.hpp"

#include <fmt/format.h>

#include <system_error>

#include "collectives/errors.hpp"
#include "experiments/atomic_file.hpp"

namespace bipo {

void check_new_file(const std::filesystem::path& out, bool overwrite,
                    const std::filesystem::path& source) {
  check_replaceable(out);
  std::error_code ignored;
  if (std::filesystem::equivalent(out, source, ignored)) {
    throw UserError(fmt::format("--out {}: is the file that is read; name another", out.string()));
  }
  if (!overwrite && std::filesystem::exists(out, ignored)) {
    throw UserError(
        fmt::format("--out {}: exists already; replace it with --overwrite, or name another file",
                    out.string()));
  }
}

}  // namespace bipo
