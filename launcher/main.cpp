// The program: parses the command line, runs the command, and turns exceptions into exit codes.
#include <c10/util/Exception.h>

#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/standard_streams.hpp"
#include "collectives/session.hpp"
#include "collectives/watch/watch.hpp"
#include "experiments/files/trial_process.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/progress/terminal.hpp"
#include "experiments/settings/settings.hpp"
#include "launcher/bench/bench.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/light/light_commands.hpp"
#include "launcher/light/outcome.hpp"
#include "launcher/options/options.hpp"

namespace {

using namespace bipo;

// Commands of one process need no MPI (it may not work on a login node).
struct RunLocally {
  std::optional<int> operator()(const WatchOptions& o) const { return run_watch_command(o); }
  std::optional<int> operator()(const ShowDataOptions& o) const { return run_data_command(o); }
  std::optional<int> operator()(const ExportOptions& o) const { return run_export_command(o); }
  std::optional<int> operator()(const ImportOptions& o) const { return run_import_command(o); }
  std::optional<int> operator()(const PlanOptions& o) const { return run_plan_command(o); }
  std::optional<int> operator()(const DescribeBuild&) const { return run_version_command(); }
  std::optional<int> operator()(const EvaluateOptions& o) const {
    return o.model.empty() ? std::optional(run_judge_files_command(o)) : std::nullopt;
  }
  template <typename Options>
  std::optional<int> operator()(const Options&) const {
    return std::nullopt;
  }
};

// Whether the command ends in order after a signal: what it has completed is saved, and nothing
// half-written is left.
struct HearsStopSignals {
  bool operator()(const TrainOptions&) const { return true; }
  bool operator()(const SweepOptions&) const { return true; }
  bool operator()(const ExtractOptions&) const { return true; }
  bool operator()(const EvaluateOptions&) const { return true; }
  // Ctrl-C ends a streaming command at once.
  bool operator()(const GenerateOptions& o) const { return !o.stream; }
  template <typename Options>
  bool operator()(const Options&) const {
    return false;
  }
};

struct RunWithRanks {
  Session& session;

  int operator()(const TrainOptions& o) const { return run_train_command(o, session); }
  int operator()(const SweepOptions& o) const { return run_sweep_command(o, session); }
  int operator()(const ExtractOptions& o) const { return run_extract_command(o, session); }
  int operator()(const GenerateOptions& o) const { return run_generate_command(o, session); }
  int operator()(const EvaluateOptions& o) const { return run_evaluate_command(o, session); }
  int operator()(const BenchOptions& o) const { return run_bench_command(o, session); }
  template <typename Options>
  int operator()(const Options&) const {
    throw BugError("a command of one process was started with ranks");
  }
};

// Handles a failure that only this rank knows of: the others may wait for it in a collective.
int fail_alone(Session& session, const std::string& message, int exit_code) {
  if (session.size() == 1) {
    complain(message);
    return exit_code;
  }
  complain("rank " + std::to_string(session.rank()) + ": " + message);
  session.abort(exit_code);
}

// Returns the time that the ranks wait for each other; the default for a command line that is
// wrong.
WatchSettings watch_settings(const std::optional<Command>& command) {
  WatchSettings settings;
  settings.notice = notice_seconds();
  if (command) {
    std::visit(
        [&]<typename Options>(const Options& options) {
          if constexpr (std::is_base_of_v<MachineOptions, Options>) {
            settings.timeout = options.timeout;
          }
        },
        *command);
  }
  return settings;
}

int run_with_ranks(const std::vector<std::string>& arguments,
                   const std::optional<Command>& parsed) {
  std::optional<Session> started;
  {
    const EndLater when_started;
    started.emplace(watch_settings(parsed));
  }
  Session& session = *started;
  try {
    Command command;
    session.together([&] { command = parse_command_line(arguments); });
    return std::visit(RunWithRanks{session}, command);
  } catch (const AgreedFailure& failure) {
    if (session.rank() == 0) {
      complain(failure.what());
    }
    return failure.exit_code();
  } catch (const UserError& error) {
    return fail_alone(session, error.what(), kExitBadInput);
  } catch (const c10::Error& error) {
    return fail_alone(session, message_of(error), kExitFailure);
  } catch (const std::exception& error) {
    return fail_alone(session, error.what(), kExitFailure);
  }
}

// Returns the exit code.
int run(const std::vector<std::string>& arguments) {
  std::optional<Command> command;
  try {
    command = parse_command_line(arguments);
  } catch (const UserError&) {
    // The code below reports it once for all ranks.
  }
  if (command) {
    if (is_light_command(*command)) {
      return run_light_command(*command);
    }
    if (const auto code = std::visit(RunLocally(), *command)) {
      return *code;
    }
    if (std::visit(HearsStopSignals(), *command)) {
      hear_stop_signals(kExitInterrupted);  // before MPI starts threads of its own
    }
  }
  return run_with_ranks(arguments, command);
}

// Ends the process.  What a command writes is written and closed by now; libtorch's static objects
// would still take each of their operators out of its tables again, for a fifth of a short
// command's time.  Sanitizers report leaks, and profilers of GPUs write their traces, at an
// ordinary end.
int end_process(int exit_code) {
#ifdef BIPO_ENDS_AT_ONCE
  std::_Exit(exit_code);
#else
  return exit_code;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto exit_code = run_trial_process(argc, argv)) {
    return end_process(*exit_code);
  }
  prepare_standard_streams();
  return end_process(exit_code_of([&] { return run({argv + 1, argv + argc}); }));
}
