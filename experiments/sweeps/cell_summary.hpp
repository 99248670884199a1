// The figures by which a sweep's cells are compared: one row per cell, from their run files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "experiments/files/hdf5.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/sweep_plan.hpp"

namespace bipo {

// The setting that names the steered site, which sweeps and runs of block outputs lack.
inline constexpr const char* kSiteSetting = "site";

inline constexpr double kUnknownFigure = std::numeric_limits<double>::quiet_NaN();

// A held-out figure at the multipliers -1, 0 and +1; NaN where it was not evaluated.
struct AtMultipliers {
  double minus = kUnknownFigure;
  double zero = kUnknownFigure;
  double plus = kUnknownFigure;
};

// Unknown figures are NaN or -1.  The table's description in cell_summary.cpp has units.
struct CellSummary {
  Cell cell;
  std::string status;
  std::string site;               // as to_string(Site) has it; empty: what the settings say
  std::int64_t steps = -1;        // done
  std::int64_t total_steps = -1;  // of the whole run
  double loss = kUnknownFigure;   // of the last step
  double vector_norm = kUnknownFigure;
  AtMultipliers accuracy;  // at the last evaluation
  AtMultipliers margin;
  std::int64_t best_epoch = -1;
  AtMultipliers best_accuracy;  // at the best evaluation
  AtMultipliers best_margin;
  double seconds = kUnknownFigure;
  double tokens_per_second = kUnknownFigure;
  std::string failure;  // the reason; empty: none

  std::size_t source = 0;  // place of the cell's settings among those of the table
  std::string origin;      // where the cell comes from; empty for all: the table has no such column

  // One for each column of a setting; write_summary() fills it.
  std::vector<std::variant<std::int64_t, double, std::string>> settings;
};

// Takes all but `cell`, `status`, `failure` and `settings` from the run.  The best evaluation is
// that of best_epoch().
void add_run(const RunRecord& record, CellSummary& summary);

// Writes the table /summary: the figures, then the settings, given as a JSON object for each source
// of cells, that all cells of a source share or that depend on a cell's model and data set.  Rows
// without a site get that of their settings, or the block's output where these name none.
void write_summary(const hdf5::Handle& file, std::vector<CellSummary> rows,
                   const std::vector<std::string>& settings);

// Returns what a sweep's settings say of the cell's model and data set alone, with their names; an
// empty object where that is nothing.
nlohmann::ordered_json own_settings(const nlohmann::ordered_json& settings, const Cell& cell);

}  // namespace bipo
