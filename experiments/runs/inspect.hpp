// Presents a run file or a conceptor file: as text for a terminal, or as JSON.
#pragma once

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>

#include "experiments/runs/conceptor_file.hpp"
#include "experiments/runs/run_file.hpp"

namespace bipo {

// Prints the run's settings, progress, losses, vectors and evaluations.
void print_run(std::ostream& out, const RunRecord& record);

// Returns the same for programs, as an object; epochs are counted from 1, as --epoch takes them.
nlohmann::ordered_json run_as_json(const RunRecord& record);

// Prints what a conceptor is of, its aperture, what it lets pass, and its settings.
void print_conceptor(std::ostream& out, const ConceptorRecord& record);

// Returns the same for programs, as an object.
nlohmann::ordered_json conceptor_as_json(const ConceptorRecord& record);

}  // namespace bipo
