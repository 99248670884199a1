// What happens where a page of a mapped file is not there any more: the system sends SIGBUS.
#pragma once

#include <cstddef>
#include <span>

namespace bipo {

// While it lives, a SIGBUS in a mapping names the file on standard error and ends the process with
// exit code 1, which ends an MPI job too.  SIGBUS anywhere else does what it did before.
class LostPageReport {
 public:
  struct Place;

  LostPageReport() = default;
  ~LostPageReport();
  LostPageReport(const LostPageReport&) = delete;
  LostPageReport& operator=(const LostPageReport&) = delete;

  // `path` must live as long as the report.  Called once.
  void begin(std::span<const std::byte> mapping, const char* path);

 private:
  Place* place_ = nullptr;
};

}  // namespace bipo
