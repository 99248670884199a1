// The program that users start.  It runs itself what needs neither libtorch nor MPI, which take
// longer to load than such a command to run.  For everything else it sets how threads and ranks
// wait, then becomes bipo-dist-compute, which lies beside it.
//
// libgomp and MPI read these settings before a main function could change them.  libgomp's threads
// spin for some milliseconds at the end of every loop, and ranks spin for as long as they wait for
// others.  On cores that run other work too they then spin while the thread that they wait for is
// not running, and a step takes many times as long.  A process that no launcher started needs
// neither networks nor the daemon that Open MPI 4 would start for it.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "collectives/foundation/standard_streams.hpp"
#include "experiments/files/trial_process.hpp"
#include "launcher/light/light_commands.hpp"
#include "launcher/light/outcome.hpp"
#include "launcher/options/options.hpp"

namespace {

using namespace bipo;

using Words = std::vector<std::string>;

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

// Whether the words may be a command of this program; the others are not even parsed here, because
// they may name a configuration file that can be read only once.
bool may_be_light(const Words& words) {
  const Words first = {"--help",     "-h",      "--version", "help",  "man",
                       "completion", "inspect", "collect",   "report"};
  const auto asks_for_help = [](const std::string& word) {
    return word == "--help" || word == "-h";
  };
  return !words.empty() && (std::find(first.begin(), first.end(), words.front()) != first.end() ||
                            std::any_of(words.begin(), words.end(), asks_for_help));
}

// Returns the command if it is one of this program.
std::optional<Command> light_command(const Words& words) {
  if (!may_be_light(words)) {
    return std::nullopt;
  }
  try {
    const Command command = parse_command_line(words);
    return is_light_command(command) ? std::optional(command) : std::nullopt;
  } catch (const UserError&) {
    return std::nullopt;  // bipo-dist-compute reports it once for all ranks
  }
}

// Whether a launcher started this process, or may have: MPI must ask it for the other ranks.
bool may_have_launcher() {
  constexpr std::array kVariables = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",      "PMI_RANK",
                                     "SLURM_PROCID",         "FLUX_TASK_RANK", "PALS_RANKID",
                                     "ALPS_APP_PE",          "PMI_FORK_RANK"};
  return std::any_of(kVariables.begin(), kVariables.end(),
                     [](const char* name) { return std::getenv(name) != nullptr; });
}

// Takes a third of a second and the daemon's failures, on nodes without it or without ssh, from a
// lone process, and the warnings of fabrics that a login node cannot use.
void start_mpi_alone() {
  set_default("OMPI_MCA_ess_singleton_isolated", "1");
  set_default("OMPI_MCA_pml", "ob1");
  set_default("OMPI_MCA_btl", "self");
}

int become_compute(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    set_default("GOMP_SPINCOUNT", kSpins);
  }
  set_default("OMPI_MCA_mpi_yield_when_idle", "1");
  if (!may_have_launcher()) {
    start_mpi_alone();
  }
  const std::string program = own_directory() + "/bipo-dist-compute";
  execv(program.c_str(), argv);
  std::fprintf(stderr, "bipo-dist: %s: cannot be started: %s; install or build it again\n",
               program.c_str(), std::strerror(errno));
  return kExitFailure;
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto exit_code = run_trial_process(argc, argv)) {
    return *exit_code;
  }
  const Words words = argc > 1 ? Words(argv + 1, argv + argc) : Words();
  if (const auto command = light_command(words)) {
    prepare_standard_streams();
    return exit_code_of([&] { return run_light_command(*command); });
  }
  return become_compute(argv);
}
