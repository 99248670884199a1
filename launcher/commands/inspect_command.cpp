// The command `inspect`: prints what a run file holds.
#include <iostream>

#include "experiments/runs/inspect.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/commands/commands.hpp"

namespace bipo {

int run_inspect_command(const InspectOptions& options) {
  print_run(std::cout, read_run_file(options.run_file));
  return 0;
}

}  // namespace bipo
