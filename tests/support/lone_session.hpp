// The session of a process that is the only rank.
#pragma once

#include <cstdlib>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "collectives/session.hpp"

namespace bipo::testing {

// MPI can be initialised once in a process: all tests of a program share the session.  It is never
// ended, because Open MPI unloads itself then and leaves memory of its own to nobody, which the
// search for leaks would report; what it takes at its start is exempt from that search.
inline const Session& lone_session() {
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", /*overwrite=*/0);
  static const Session* const session = [] {
#ifdef __SANITIZE_ADDRESS__
    const __lsan::ScopedDisabler exempt;
#endif
    return new Session();
  }();
  return *session;
}

}  // namespace bipo::testing
