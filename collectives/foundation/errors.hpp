// The three kinds of error the project throws.  Libraries throw; only main() turns one into an exit
// code, after every rank has heard of it.
#pragma once

#include <stdexcept>
#include <string>

namespace bipo {

// The user can mend it: an option, a file's content, a shape, a size.  Says what, where, the rule
// and what to do.  Exit code 2 when found before work begins.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The machine or a library failed: MPI, NCCL, CUDA, HDF5, the file system.  Carries the library's
// own message and the call that failed.  Exit code 1.
class EnvironmentError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An internal invariant does not hold; the text carries the offending values.  Exit code 1.
class BugError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

}  // namespace bipo
