// Versions of the libraries that move data between ranks.  Local; works before MPI starts.
#pragma once

#include <string>

namespace bipo {

// Returns the library's own name and version: "Open MPI v4.1.4".
std::string mpi_version();

// Returns "2.21.5", and "" in a build without NCCL.
std::string nccl_version();

}  // namespace bipo
