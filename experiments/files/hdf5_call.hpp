// Calls of the HDF5 C API, checked; for the sources that use it.
#pragma once

#include <string>

namespace bipo::hdf5 {

// Throws EnvironmentError with HDF5's own message.
[[noreturn]] void throw_failure(const char* call, const std::string& object);

// Returns the result.  HDF5 reports failure by a negative number in every signed result type.
template <typename Result>
Result check(Result result, const char* call, const std::string& object) {
  if (result < 0) {
    throw_failure(call, object);
  }
  return result;
}

}  // namespace bipo::hdf5
