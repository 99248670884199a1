#include "launcher/light/light_commands.hpp"

#include <variant>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "collectives/foundation/standard_streams.hpp"

namespace bipo {
namespace {

struct RunLight {
  int operator()(const PrintAndExit& print) const {
    write_standard_output(print.text);
    return kExitDone;
  }
  int operator()(const InspectOptions& options) const { return run_inspect_command(options); }
  int operator()(const CollectOptions& options) const { return run_collect_command(options); }
  int operator()(const AnalysisOptions& options) const { return run_report_command(options); }
  template <typename Options>
  int operator()(const Options&) const {
    throw BugError("a command that needs libtorch was started without it");
  }
};

}  // namespace

bool is_light_command(const Command& command) {
  return std::holds_alternative<PrintAndExit>(command) ||
         std::holds_alternative<InspectOptions>(command) ||
         std::holds_alternative<CollectOptions>(command) ||
         std::holds_alternative<AnalysisOptions>(command);
}

int run_light_command(const Command& command) {
  return std::visit(RunLight(), command);
}

}  // namespace bipo
