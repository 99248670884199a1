// How a program of the project ends: messages and exit codes.
#pragma once

#include <functional>
#include <string>

namespace bipo {

// Prints "bipo-dist: message" to standard error in one write, so that lines of several ranks do not
// mix.
void complain(const std::string& message);

// Returns the exit code that `work` returns, or that of the exception that it throws, whose message
// is printed; and failure where standard output did not take everything that was printed.  To be
// called once, by main(), after prepare_standard_streams().
int exit_code_of(const std::function<int()>& work);

}  // namespace bipo
