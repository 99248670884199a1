#include "collectives/foundation/random_name.hpp"

#include <fmt/format.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {

std::string random_name() {
  std::uint64_t bits = 0;
  // So few bytes come at once, and no signal interrupts it.
  if (::getrandom(&bits, sizeof(bits), 0) != static_cast<ssize_t>(sizeof(bits))) {
    throw EnvironmentError(
        fmt::format("getrandom failed: {}", std::generic_category().message(errno)));
  }
  return fmt::format("{:016x}", bits);
}

}  // namespace bipo
