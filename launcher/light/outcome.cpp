#include "launcher/light/outcome.hpp"

#include <unistd.h>

#include <exception>
#include <iostream>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "collectives/foundation/standard_streams.hpp"
#include "experiments/progress/terminal.hpp"

namespace bipo {
namespace {

int reported(const std::function<int()>& work) {
  try {
    return work();
  } catch (const UserError& error) {
    complain(error.what());
    return kExitBadInput;
  } catch (const std::exception& error) {
    complain(error.what());
    return kExitFailure;
  }
}

}  // namespace

void complain(const std::string& message) {
  const Colour colour = shows_colours(STDERR_FILENO) ? Colour::kRed : Colour::kNone;
  // One write, so that lines of several ranks do not mix.
  std::cerr << coloured("bipo-dist:", colour) + " " + message + "\n" << std::flush;
}

int exit_code_of(const std::function<int()>& work) {
  const int exit_code = reported(work);
  try {
    flush_standard_output();
  } catch (const EnvironmentError& error) {
    if (exit_code == kExitDone) {
      complain(error.what());
      return kExitFailure;
    }
  }
  return exit_code;
}

}  // namespace bipo
