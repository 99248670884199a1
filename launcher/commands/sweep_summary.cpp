#include "launcher/commands/sweep_summary.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {
namespace {

using Row = std::vector<std::string>;

constexpr const char* kUnknown = "-";

std::string accuracy_at(double multiplier, const TrainingRecord& record) {
  const auto last = std::find_if(record.evals.rbegin(), record.evals.rend(),
                                 [&](const EvalRow& row) { return row.multiplier == multiplier; });
  return last == record.evals.rend() ? kUnknown : fmt::format("{:.1f}", 100 * last->accuracy);
}

std::string last_loss(const TrainingRecord& record) {
  return record.steps.empty() ? kUnknown : fmt::format("{:.4f}", record.steps.back().loss);
}

Row header(const std::vector<double>& multipliers, bool evaluates) {
  Row row{"cell", "status"};
  if (evaluates) {
    for (const double multiplier : multipliers) {
      row.push_back(fmt::format("acc% {:+g}v", multiplier));
    }
  } else {
    row.emplace_back("last loss");
  }
  row.emplace_back("run file");
  return row;
}

// What the line of a cell is made of.
struct CellView {
  const Cell& cell;
  CellStatus status;
  std::filesystem::path path;
  RunRecord record;
};

std::string status_text(const CellView& view) {
  return to_string(view.status) + (is_weak(view.record.attributes) ? ", weak" : "");
}

// Returns an empty record where there is no file, or none that can be read: then `problem` says so.
RunRecord record_in(const std::filesystem::path& path, std::string& problem) {
  try {
    return std::filesystem::exists(path) ? read_run_file(path) : RunRecord();
  } catch (const UserError& error) {
    problem += fmt::format("{}\n", error.what());
    return {};
  }
}

Row row_of(const CellView& view, const std::vector<double>& multipliers, bool evaluates) {
  Row row{view.cell.name, status_text(view)};
  if (evaluates) {
    for (const double multiplier : multipliers) {
      row.push_back(accuracy_at(multiplier, view.record));
    }
  } else {
    row.push_back(last_loss(view.record));
  }
  row.push_back(std::filesystem::exists(view.path) ? view.path.string() : kUnknown);
  return row;
}

// Aligns names to the left, figures to the right.
std::string aligned(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const Row& row : rows) {
    text += fmt::format("{:<{}}  {:<{}}", row[0], widths[0], row[1], widths[1]);
    for (std::size_t i = 2; i + 1 < row.size(); ++i) {
      text += fmt::format("  {:>{}}", row[i], widths[i]);
    }
    text += fmt::format("  {}\n", row.back());
  }
  return text;
}

}  // namespace

SweepSummary summarize_sweep(const std::filesystem::path& directory, const SweepPlan& plan,
                             const std::vector<double>& multipliers, bool evaluates) {
  const std::vector<CellStatus> status = SweepMonitor(directory, plan).look();
  std::vector<Row> rows{header(multipliers, evaluates)};
  std::string reasons;
  SweepSummary summary;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const Cell& cell = plan.cells[i];
    const std::filesystem::path path = run_file_path(directory, cell);
    const CellView view{cell, status[i], path, record_in(path, reasons)};
    rows.push_back(row_of(view, multipliers, evaluates));
    summary.weak += is_weak(view.record.attributes) ? 1 : 0;
    summary.running += status[i] == CellStatus::kRunning ? 1 : 0;
    if (status[i] == CellStatus::kFailed) {
      ++summary.failed;
      reasons += fmt::format("{}: {}\n", cell.name, read_failure(directory, cell.name)->reason);
    }
  }
  summary.text = aligned(rows) + reasons;
  return summary;
}

}  // namespace bipo
