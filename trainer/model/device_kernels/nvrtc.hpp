// NVIDIA's run-time compiler for kernels.  The torch wheel brings it; it needs neither a toolkit
// nor a GPU, and the program is not linked to it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// Returns where the library may be: its files in the folder of packages that the torch package is
// in, then its names, which may be those of a toolkit that a module has loaded.
std::vector<std::string> places_of_nvrtc();

class Nvrtc {
 public:
  // Loads the first of these files that can be loaded.  Throws EnvironmentError.
  explicit Nvrtc(const std::vector<std::string>& places);
  ~Nvrtc();
  Nvrtc(const Nvrtc&) = delete;
  Nvrtc& operator=(const Nvrtc&) = delete;

  const std::string& version() const { return version_; }  // "13.0"

  // Returns the compiler's options apart from the architecture.
  static std::string options();

  // Returns device code (an ELF file) of `source` for an architecture such as "sm_90".  Throws
  // EnvironmentError with the compiler's messages.
  std::string compile(const std::string& source, std::string_view architecture) const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  std::string version_;
};

}  // namespace bipo
