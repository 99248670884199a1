// MPI's return codes as exceptions; included only by the sources that talk to MPI.
#pragma once

#include <mpi.h>

namespace bipo {

// Throws EnvironmentError with the failed call and MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

}  // namespace bipo

// Names the call in the error.
#define BIPO_MPI(call) ::bipo::check_mpi((call), #call)
