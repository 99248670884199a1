// A process of its own that reads a file before this one does.  A library that crashes, loops or
// takes all memory over a damaged file ends that process alone.
//
// The process is this program again, started anew: a fork would share locks, MPI's registered
// memory and CUDA's state.  It ends with the process that started it.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

#include "collectives/foundation/input_file.hpp"

namespace bipo {

// Reads the open file `descriptor`, which messages call `path`.  Throws UserError, whose message
// names the path, for a file that cannot be read.
using TrialFunction = std::function<void(const std::string& path, int descriptor)>;

// Gives `name` to a function.  Call it before main(): a trial process knows the function by name.
void register_trial(const std::string& name, TrialFunction function);

// The first call of main().  Returns the exit code where this is a trial process, which has then
// done its work; else nothing.  Without it, try_reading() refuses to work.
std::optional<int> run_trial_process(int argc, char** argv);

// The file ended the trial process, or took too much time or memory; what() says how.
class TrialFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Lets the trial process call the function `name` with the file.  Throws UserError as the function
// does, TrialFailure, and EnvironmentError where no process can be started.
void try_reading(const std::string& name, const std::string& path, const InputFile& file);

// Keeps the trial process for the next file while the object lives: it takes a third of a second to
// start.
class TrialProcessKept {
 public:
  TrialProcessKept();
  TrialProcessKept(const TrialProcessKept&) = delete;
  TrialProcessKept& operator=(const TrialProcessKept&) = delete;
  ~TrialProcessKept();
};

}  // namespace bipo
