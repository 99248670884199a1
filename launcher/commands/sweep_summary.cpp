#include "launcher/commands/sweep_summary.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweep_run/sweep_board.hpp"
#include "experiments/sweeps/short_names.hpp"
#include "experiments/sweeps/sweep_directory.hpp"

namespace bipo {
namespace {

constexpr const char* kUnknown = "-";
constexpr std::size_t kGap = 2;

// One column of numbers.
struct Column {
  std::string group;  // above neighbours that share it
  std::string title;
  std::function<std::string(const TrainingRecord&)> value;
  double distance = 0;  // of the multiplier from 0: how much the column matters
  std::vector<std::string> values;
  std::size_t width = 0;
};

// A cell and what its run file holds.
struct Line {
  std::string name;
  CellStatus status = CellStatus::kMissing;
  bool is_weak = false;  // its verdict says that it shows no effect

  std::string status_text() const { return to_string(status) + (is_weak ? ", weak" : ""); }
};

const EvalRow* last_evaluation(double multiplier, const TrainingRecord& record) {
  const auto last = std::find_if(record.evals.rbegin(), record.evals.rend(),
                                 [&](const EvalRow& row) { return row.multiplier == multiplier; });
  return last == record.evals.rend() ? nullptr : &*last;
}

std::vector<Column> columns_for(const std::vector<double>& multipliers, bool evaluates) {
  std::vector<Column> columns;
  if (!evaluates) {
    columns.push_back({"",
                       "last loss",
                       [](const TrainingRecord& record) {
                         return record.steps.empty()
                                    ? kUnknown
                                    : fmt::format("{:.4f}", record.steps.back().loss);
                       },
                       0,
                       {}});
    return columns;
  }
  for (const double multiplier : multipliers) {
    columns.push_back({"accuracy %",
                       fmt::format("{:+g}v", multiplier),
                       [multiplier](const TrainingRecord& record) {
                         const EvalRow* row = last_evaluation(multiplier, record);
                         return row == nullptr ? kUnknown
                                               : fmt::format("{:.1f}", 100 * row->accuracy);
                       },
                       std::abs(multiplier),
                       {}});
  }
  for (const double multiplier : multipliers) {
    if (multiplier == 0) {
      continue;  // the margin is measured from there
    }
    columns.push_back({"margin",
                       fmt::format("{:+g}v", multiplier),
                       [multiplier](const TrainingRecord& record) {
                         const EvalRow* row = last_evaluation(multiplier, record);
                         return row == nullptr ? kUnknown : fmt::format("{:+.3f}", row->margin);
                       },
                       std::abs(multiplier),
                       {}});
  }
  return columns;
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

// Takes columns away until the rest fits beside `used` bytes, those near multiplier 0 first.
void keep_what_fits(std::vector<Column>& columns, std::size_t used) {
  const auto width = [&] {
    std::size_t sum = used;
    for (const Column& column : columns) {
      sum += kGap + column.width;
    }
    return sum;
  };
  while (columns.size() > 1 && width() > kLineWidth) {
    columns.erase(
        std::min_element(columns.begin(), columns.end(),
                         [](const Column& a, const Column& b) { return a.distance < b.distance; }));
  }
}

// Returns the titles that neighbours share, each above its first column.
std::string group_line(const std::vector<Column>& columns, std::size_t indent) {
  std::string line;
  std::size_t column_end = indent;
  std::string group;
  for (const Column& column : columns) {
    const std::size_t begin = column_end + kGap;
    if (column.group != group) {
      group = column.group;
      line.resize(std::max(line.size(), begin), ' ');
      line += group;
    }
    column_end = begin + column.width;
  }
  return line.empty() ? "" : line + '\n';
}

// Returns the end of a name that is too long: cells of one model differ there.
std::string fitted_name(const std::string& name, std::size_t width) {
  if (name.size() <= width) {
    return name;
  }
  std::size_t begin = name.size() - (width - 2);
  while (begin < name.size() && (static_cast<unsigned char>(name[begin]) & 0xC0U) == 0x80U) {
    ++begin;  // in the middle of a character
  }
  return ".." + name.substr(begin);
}

std::string table_text(const std::vector<Line>& lines, std::vector<Column> columns,
                       bool has_colours) {
  std::size_t name_width = std::string("cell").size();
  std::size_t status_width = std::string("status").size();
  for (const Line& line : lines) {
    name_width = std::max(name_width, line.name.size());
    status_width = std::max(status_width, line.status_text().size());
  }
  for (Column& column : columns) {
    column.width = column.title.size();
    for (const std::string& value : column.values) {
      column.width = std::max(column.width, value.size());
    }
  }
  // A pair of columns has room beside the longest name.
  name_width = std::min<std::size_t>(name_width, kLineWidth - 32);
  keep_what_fits(columns, name_width + kGap + status_width);
  std::string text = group_line(columns, name_width + kGap + status_width);
  text += fmt::format("{:<{}}  {:<{}}", "cell", name_width, "status", status_width);
  for (const Column& column : columns) {
    text += fmt::format("  {:>{}}", column.title, column.width);
  }
  text += '\n';
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const Line& line = lines[i];
    const std::string status = fmt::format("{:<{}}", line.status_text(), status_width);
    text += fmt::format("{:<{}}  {}", fitted_name(line.name, name_width), name_width,
                        has_colours ? coloured(status, colour_of(line.status)) : status);
    for (const Column& column : columns) {
      text += fmt::format("  {:>{}}", column.values[i], column.width);
    }
    text += '\n';
  }
  return text;
}

}  // namespace

SweepSummary summarize_sweep(const std::filesystem::path& directory, const SweepPlan& plan,
                             const std::vector<double>& multipliers, bool evaluates,
                             bool has_colours) {
  const std::vector<CellStatus> status = SweepMonitor(directory, plan).look();
  const ShortNames names(plan.cells);
  std::vector<Column> columns = columns_for(multipliers, evaluates);
  std::vector<Line> lines;
  std::string reasons;
  SweepSummary summary;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const Cell& cell = plan.cells[i];
    const RunRecord record = record_in(run_file_path(directory, cell), reasons);
    lines.push_back({names.of(cell), status[i], is_weak(record.attributes)});
    summary.weak += lines.back().is_weak ? 1 : 0;
    for (Column& column : columns) {
      column.values.push_back(column.value(record));
    }
    summary.running += status[i] == CellStatus::kRunning ? 1 : 0;
    if (status[i] == CellStatus::kFailed) {
      ++summary.failed;
      reasons +=
          fmt::format("{}: {}\n", names.of(cell), read_failure(directory, cell.name)->reason);
    }
  }
  summary.text =
      table_text(lines, std::move(columns), has_colours) + reasons +
      fmt::format("run files: {}\n", run_file_path(directory, plan.cells.front()).string());
  if (plan.cells.size() > 1) {
    summary.text += fmt::format("  and {} more\n", plan.cells.size() - 1);
  }
  return summary;
}

}  // namespace bipo
