#include "collectives/foundation/host_name.hpp"

#include <unistd.h>

#include <array>

namespace bipo {

std::string host_name() {
  std::array<char, 256> name{};
  // The last byte stays 0: a truncated name may lack its terminator.
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace bipo
