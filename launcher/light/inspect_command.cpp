// The command `inspect`: prints what a run file or a conceptor file holds.
#include <iostream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/exit_codes.hpp"
#include "experiments/runs/conceptor_file.hpp"
#include "experiments/runs/inspect.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/light/json_output.hpp"
#include "launcher/light/light_commands.hpp"

namespace bipo {
namespace {

void print_as_json(const InspectOptions& options, const nlohmann::ordered_json& record) {
  nlohmann::ordered_json json = {{"file", options.run_file.string()}};
  json.update(record);
  print_json(json);
}

}  // namespace

int run_inspect_command(const InspectOptions& options) {
  if (is_conceptor_file(options.run_file)) {
    const ConceptorRecord record = read_conceptor_file(options.run_file);
    if (options.json) {
      print_as_json(options, conceptor_as_json(record));
    } else {
      print_conceptor(std::cout, record);
    }
    return kExitDone;
  }
  const RunRecord record = read_run_file(options.run_file);
  if (options.json) {
    print_as_json(options, run_as_json(record));
  } else {
    print_run(std::cout, record);
  }
  return kExitDone;
}

}  // namespace bipo
