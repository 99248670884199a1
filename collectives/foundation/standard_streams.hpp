// Standard input, output and error as the program needs them.
#pragma once

#include <string_view>

namespace bipo {

// To be called first, while the process has one thread.  Gives a closed stream the null device, so
// that no file that is opened later gets its number and what is printed; writing to standard output
// fails then.  Blocks SIGPIPE in this thread, and so in those that it starts: a write to a closed
// pipe is an error of that write.
void prepare_standard_streams();

// Throws EnvironmentError, which says why, where standard output does not take the text.
void write_standard_output(std::string_view text);

// Writes what is buffered.  Throws EnvironmentError unless everything that was printed to standard
// output so far has been taken; it says why if nobody else flushed, so commands leave that to main.
// Standard error is different: what it does not take is lost.
void flush_standard_output();

}  // namespace bipo
