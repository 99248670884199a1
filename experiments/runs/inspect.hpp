// Presents a run file: as text for a terminal, or as JSON.
#pragma once

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// Prints the run's settings, progress, losses, vectors and evaluations.
void print_run(std::ostream& out, const RunRecord& record);

// Returns the same for programs, as an object; epochs are counted from 1, as --epoch takes them.
nlohmann::ordered_json run_as_json(const RunRecord& record);

}  // namespace bipo
