// The session of a process that is the only rank.
#pragma once

#include <cstdlib>

#include "collectives/session.hpp"

namespace bipo::testing {

// MPI can be initialised once in a process: all tests of a program share the session.
inline const Session& lone_session() {
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", /*overwrite=*/0);
  static const Session session;
  return session;
}

}  // namespace bipo::testing
