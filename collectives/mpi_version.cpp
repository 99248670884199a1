#include <mpi.h>

#include <array>

#include "collectives/transport_versions.hpp"

namespace bipo {

std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING + 1> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  const std::string whole(text.data());
  return whole.substr(0, whole.find_first_of(",\n"));  // packagers and hashes follow
}

}  // namespace bipo
