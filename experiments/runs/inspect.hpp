// A run file as text for a terminal.
#pragma once

#include <iosfwd>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// Prints what the run was (settings), how far it came, its losses, its vectors and its evaluations.
void print_run(std::ostream& out, const RunRecord& record);

}  // namespace bipo
