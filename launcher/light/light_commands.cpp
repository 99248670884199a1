#include "launcher/light/light_commands.hpp"

#include <variant>

#include "collectives/foundation/standard_streams.hpp"

namespace bipo {
namespace {

struct RunLight {
  std::optional<int> operator()(const PrintAndExit& print) const {
    write_standard_output(print.text);
    return 0;
  }
  std::optional<int> operator()(const InspectOptions& o) const { return run_inspect_command(o); }
  std::optional<int> operator()(const CollectOptions& o) const { return run_collect_command(o); }
  template <typename Options>
  std::optional<int> operator()(const Options&) const {
    return std::nullopt;
  }
};

}  // namespace

std::optional<int> run_light_command(const Command& command) {
  return std::visit(RunLight(), command);
}

}  // namespace bipo
