// The three kinds of error that the project throws.  Libraries throw; only main() turns an error
// into an exit code, after every rank knows of it.
#pragma once

#include <stdexcept>
#include <string>

namespace bipo {

// An error that the user can fix: an option, a file's content, a shape, a size.  The message says
// what is wrong, where, the rule and what to do.  Exit code 2 if found before work begins.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A failure of the machine or a library: MPI, NCCL, CUDA, HDF5, the file system.  The message holds
// the library's own message and the failed call.  Exit code 1.
class EnvironmentError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A broken internal invariant; the message holds the offending values.  Exit code 1.
class BugError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

}  // namespace bipo
