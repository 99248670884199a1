// Prints a run file as text for a terminal.
#pragma once

#include <iosfwd>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// Prints the run's settings, progress, losses, vectors and evaluations.
void print_run(std::ostream& out, const RunRecord& record);

}  // namespace bipo
