// The command `inspect`: prints what a run file holds.
#include <iostream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/exit_codes.hpp"
#include "experiments/runs/inspect.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/light/json_output.hpp"
#include "launcher/light/light_commands.hpp"

namespace bipo {

int run_inspect_command(const InspectOptions& options) {
  const RunRecord record = read_run_file(options.run_file);
  if (options.json) {
    nlohmann::ordered_json json = {{"file", options.run_file.string()}};
    json.update(run_as_json(record));
    print_json(json);
  } else {
    print_run(std::cout, record);
  }
  return kExitDone;
}

}  // namespace bipo
