// The program that users start: sets how threads and ranks wait, then becomes bipo-dist-compute,
// the program itself, which lies beside it.
//
// libgomp and MPI read these settings before a main function could change them.  libgomp's threads
// spin for some milliseconds at the end of every loop, and ranks spin for as long as they wait for
// others.  On cores that run other work too they then spin while the thread that they wait for is
// not running, and a step takes many times as long.
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

// Some 0.1 ms: covers the gaps between the loops of a step; a thread that waits longer sleeps.
constexpr const char* kSpins = "10000";

void set_default(const char* name, const char* value) {
  setenv(name, value, /*overwrite=*/0);
}

// Returns the directory of this program's file, "." if the system does not say.
std::string own_directory() {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string own(path.data(), length < 0 ? 0 : static_cast<std::size_t>(length));
  const std::size_t slash = own.rfind('/');
  return slash == std::string::npos ? "." : own.substr(0, slash);
}

}  // namespace

int main(int /*argc*/, char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    set_default("GOMP_SPINCOUNT", kSpins);
  }
  set_default("OMPI_MCA_mpi_yield_when_idle", "1");
  const std::string program = own_directory() + "/bipo-dist-compute";
  execv(program.c_str(), argv);
  std::fprintf(stderr, "bipo-dist: %s: cannot be started: %s; install or build it again\n",
               program.c_str(), std::strerror(errno));
  return 1;
}
