// The command `collect`: gathers the run files of a sweep in one file.

#include <iostream>

#include "experiments/settings/version.hpp"
#include "experiments/sweeps/collect.hpp"
#include "launcher/commands/commands.hpp"

namespace bipo {

int run_collect_command(const CollectOptions& options) {
  const auto cells = collect_sweep(
      {options.directory, options.out, options.overwrite, kProgramVersion, kGitCommit});
  std::cout << describe_collection(cells, options.out);
  return 0;
}

}  // namespace bipo
