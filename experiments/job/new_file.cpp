#include "experiments/job/new_file.hpp"

#include <fmt/format.h>

#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

// Returns whether both paths name one file, under any of its names; neither needs to exist.
bool is_same_file(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return fs::equivalent(a, b, ignored) || fs::weakly_canonical(fs::absolute(a), ignored) ==
                                              fs::weakly_canonical(fs::absolute(b), ignored);
}

}  // namespace

void check_not_input(const std::string& option, const fs::path& out,
                     const std::vector<fs::path>& inputs) {
  for (const fs::path& input : inputs) {
    if (!input.empty() && is_same_file(out, input)) {
      throw UserError(
          fmt::format("{} {}: the same file is also an input or another output; name another",
                      option, out.string()));
    }
  }
}

void check_new_file(const std::string& option, const fs::path& out, bool overwrite,
                    const std::vector<fs::path>& inputs) {
  check_replaceable(out);
  check_not_input(option, out, inputs);
  std::error_code ignored;
  if (!overwrite && fs::exists(out, ignored)) {
    throw UserError(
        fmt::format("{} {}: exists already; replace it with --overwrite, or name another file",
                    option, out.string()));
  }
}

}  // namespace bipo
