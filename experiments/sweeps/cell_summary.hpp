// The figures that tell a sweep's cells apart, one row per cell, from their run files.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "experiments/files/hdf5.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// A held-out figure at the multipliers -1, 0 and +1; NaN where it was not evaluated.
struct AtMultipliers {
  double minus = std::numeric_limits<double>::quiet_NaN();
  double zero = std::numeric_limits<double>::quiet_NaN();
  double plus = std::numeric_limits<double>::quiet_NaN();
};

// What is not known is NaN or -1.
struct CellSummary {
  Cell cell;
  std::string status;
  std::int64_t steps = -1;                                        // done
  std::int64_t total_steps = -1;                                  // of the whole run
  double loss = std::numeric_limits<double>::quiet_NaN();         // nats, of the last step
  double vector_norm = std::numeric_limits<double>::quiet_NaN();  // after it
  AtMultipliers accuracy;                                         // of the last evaluation
  AtMultipliers margin;
  std::int64_t best_epoch = -1;
  AtMultipliers best_accuracy;  // of the best evaluation
  AtMultipliers best_margin;
  double seconds = std::numeric_limits<double>::quiet_NaN();  // in steps
  double tokens_per_second = std::numeric_limits<double>::quiet_NaN();
  std::string failure;  // the reason; empty: none
};

// Takes all but `cell`, `status` and `failure` from the run.  The best evaluation is the one with
// the largest accuracy at +1 less that at -1; of equal ones the one with the largest difference of
// margins, of equal ones again the earliest.
void add_run(const RunRecord& record, CellSummary& summary);

// Columns of /summary: those above, then the settings, given as a JSON object, that all cells share
// or that go with a cell's model and data set.
std::vector<hdf5::ValueColumn> summary_columns(const std::vector<CellSummary>& rows,
                                               const std::string& settings);

// A JSON object, column -> unit and meaning, for the columns before the settings.
std::string summary_units();

}  // namespace bipo
