// The command `collect`: gathers the run files of sweeps in one file.
#include <iostream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/exit_codes.hpp"
#include "experiments/settings/version.hpp"
#include "experiments/sweeps/collect.hpp"
#include "launcher/light/json_output.hpp"
#include "launcher/light/light_commands.hpp"

namespace bipo {

int run_collect_command(const CollectOptions& options) {
  const auto cells =
      collect_sweep({options.sources, options.out, options.overwrite, kProgramVersion, kGitCommit});
  if (options.json) {
    print_json(collection_as_json(cells, options.out));
  } else {
    std::cout << describe_collection(cells, options.out);
  }
  return kExitDone;
}

}  // namespace bipo
