// Standard input, output and error as the program needs them.
#pragma once

namespace bipo {

// To be called first, while the process has one thread.  Gives a closed stream the null device, so
// that no file that is opened later gets its number and what is printed; writing to standard output
// fails then.  Makes a write to a closed pipe an error of that write in this thread, and in those
// that it starts, instead of SIGPIPE.
void prepare_standard_streams();

// Writes what is buffered.  Throws EnvironmentError unless everything that was printed to standard
// output so far has been taken.  Standard error is different: what it does not take is lost.
void flush_standard_output();

}  // namespace bipo
