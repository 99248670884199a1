// The program: parses the command line, runs the command, and turns exceptions into exit codes.
#include <c10/util/Exception.h>

#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/session.hpp"
#include "launcher/bench/bench_command.hpp"
#include "launcher/bench/plan_command.hpp"
#include "launcher/evaluate/evaluate_command.hpp"
#include "launcher/evaluate/judge_files.hpp"
#include "launcher/extract/extract_command.hpp"
#include "launcher/generate/generate_command.hpp"
#include "launcher/options/options.hpp"
#include "launcher/sweep/collect_command.hpp"
#include "launcher/sweep/sweep_command.hpp"
#include "launcher/training/train_command.hpp"
#include "launcher/vectors/export_command.hpp"
#include "launcher/vectors/import_command.hpp"
#include "launcher/vectors/inspect_command.hpp"

namespace {

using namespace bipo;

void complain(const std::string& message) {
  // One write, so that lines of several ranks do not mix.
  std::cerr << "bipo-dist: " + message + "\n" << std::flush;
}

// Commands of one process, which need no MPI (a login node may not have it working).
std::optional<int> run_locally(const Command& command) {
  if (const auto* print = std::get_if<PrintAndExit>(&command)) {
    std::cout << print->text << std::flush;
    return kExitDone;
  }
  if (const auto* inspect = std::get_if<InspectOptions>(&command)) {
    return run_inspect_command(*inspect);
  }
  if (const auto* collect = std::get_if<CollectOptions>(&command)) {
    return run_collect_command(*collect);
  }
  if (const auto* exporting = std::get_if<ExportOptions>(&command)) {
    return run_export_command(*exporting);
  }
  if (const auto* importing = std::get_if<ImportOptions>(&command)) {
    return run_import_command(*importing);
  }
  if (const auto* evaluate = std::get_if<EvaluateOptions>(&command);
      evaluate != nullptr && evaluate->model.empty()) {
    return run_judge_files_command(*evaluate);
  }
  if (const auto* plan = std::get_if<PlanOptions>(&command)) {
    return run_plan_command(*plan);
  }
  return std::nullopt;
}

// What this rank alone knows: the others may be waiting for it in a collective.
int fail_alone(Session& session, const std::string& message, int exit_code) {
  if (session.size() == 1) {
    complain(message);
    return exit_code;
  }
  complain("rank " + std::to_string(session.rank()) + ": " + message);
  session.abort(exit_code);
}

int run_with_ranks(const std::vector<std::string>& arguments) {
  Session session;
  try {
    Command command;
    session.together([&] { command = parse_command_line(arguments); });
    if (const auto* bench = std::get_if<BenchOptions>(&command)) {
      return run_bench_command(*bench, session);
    }
    if (const auto* sweep = std::get_if<SweepOptions>(&command)) {
      return run_sweep_command(*sweep, session);
    }
    if (const auto* extract = std::get_if<ExtractOptions>(&command)) {
      return run_extract_command(*extract, session);
    }
    if (const auto* generate = std::get_if<GenerateOptions>(&command)) {
      return run_generate_command(*generate, session);
    }
    if (const auto* evaluate = std::get_if<EvaluateOptions>(&command)) {
      return run_evaluate_command(*evaluate, session);
    }
    return run_train_command(std::get<TrainOptions>(command), session);
  } catch (const AgreedFailure& failure) {
    if (session.rank() == 0) {
      complain(failure.what());
    }
    return failure.exit_code();
  } catch (const UserError& error) {
    return fail_alone(session, error.what(), kExitBadInput);
  } catch (const c10::Error& error) {
    return fail_alone(session, error.what_without_backtrace(), kExitFailure);
  } catch (const std::exception& error) {
    return fail_alone(session, error.what(), kExitFailure);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::optional<Command> command;
  try {
    command = parse_command_line(arguments);
  } catch (const UserError&) {
    // Told once for all ranks, below.
  }
  try {
    if (command) {
      if (const auto code = run_locally(*command)) {
        return *code;
      }
    }
    return run_with_ranks(arguments);
  } catch (const UserError& error) {
    complain(error.what());
    return kExitBadInput;
  } catch (const std::exception& error) {
    complain(error.what());
    return kExitFailure;
  }
}
