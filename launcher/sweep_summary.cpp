// The result of a sweep as a table: one row per cell, from the run files.
#include "launcher/sweep_summary.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "experiments/run_file.hpp"
#include "experiments/sweep_directory.hpp"

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

Row row_of(const Cell& cell, const std::filesystem::path& path,
           const std::vector<double>& multipliers, bool evaluates) {
  const bool has_file = std::filesystem::exists(path);
  const RunRecord record = has_file ? read_run_file(path) : RunRecord();
  Row row{cell.name, has_file ? to_string(record.attributes.status) : "not begun"};
  if (evaluates) {
    for (const double multiplier : multipliers) {
      row.push_back(accuracy_at(multiplier, record));
    }
  } else {
    row.push_back(last_loss(record));
  }
  row.push_back(has_file ? path.string() : kUnknown);
  return row;
}

// Names to the left, figures to the right.
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

std::string sweep_summary(const std::filesystem::path& directory, const std::vector<Cell>& cells,
                          const std::vector<double>& multipliers, bool evaluates) {
  std::vector<Row> rows{header(multipliers, evaluates)};
  for (const Cell& cell : cells) {
    rows.push_back(row_of(cell, run_file_path(directory, cell), multipliers, evaluates));
  }
  return aligned(rows);
}

}  // namespace bipo
