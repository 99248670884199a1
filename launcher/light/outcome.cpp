#include "launcher/light/outcome.hpp"

#include <exception>
#include <iostream>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "collectives/foundation/standard_streams.hpp"

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
  std::cerr << "bipo-dist: " + message + "\n" << std::flush;
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
