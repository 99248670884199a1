#include "experiments/sweep_run/sweep_board.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace bipo {
namespace {

// The longest name that leaves room for status and time.
constexpr std::size_t kNameWidth = kLineWidth - 30;

// The order in which cells get a line.
int urgency(CellStatus status) {
  switch (status) {
    case CellStatus::kRunning:
      return 0;
    case CellStatus::kFailed:
      return 1;
    case CellStatus::kInterrupted:
      return 2;
    case CellStatus::kMissing:
      return 3;
    case CellStatus::kComplete:
      break;
  }
  return 4;
}

bool is_left(CellStatus status) {
  return status != CellStatus::kComplete && status != CellStatus::kFailed;
}

}  // namespace

Colour colour_of(CellStatus status) {
  switch (status) {
    case CellStatus::kComplete:
      return Colour::kGreen;
    case CellStatus::kFailed:
      return Colour::kRed;
    default:
      return Colour::kNone;
  }
}

SweepEstimate estimate(const SweepPlan& plan, const std::vector<CellStatus>& status,
                       const CellCost& cost, const SweepPace& pace) {
  std::map<std::string, std::size_t> place;
  double running = 0;
  double left = 0;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    place[plan.cells[i].name] = i;
    running += status[i] == CellStatus::kRunning ? cost(plan.cells[i]) : 0;
    left += is_left(status[i]) ? cost(plan.cells[i]) : 0;
  }
  SweepEstimate result{-1, std::vector<double>(plan.cells.size(), -1)};
  if (pace.cost_per_second <= 0 || left <= 0) {
    return result;
  }
  const double groups = pace.pack_cost > 0 ? std::max(1.0, running / pace.pack_cost) : 1;
  const double speed = pace.cost_per_second * groups;
  double before = running * (1 - pace.pack_share);
  result.whole = std::max(0.0, left - pace.pack_share * running) / speed;
  for (const Pack& pack : plan.packs) {
    double of_pack = 0;
    bool runs = false;
    for (const Cell& cell : pack.members) {
      const CellStatus now = status[place.at(cell.name)];
      of_pack += is_left(now) ? cost(cell) : 0;
      runs = runs || now == CellStatus::kRunning;
    }
    before += runs ? 0 : of_pack;
    const double seconds =
        runs ? of_pack * (1 - pace.pack_share) / pace.cost_per_second : before / speed;
    for (const Cell& cell : pack.members) {
      const std::size_t i = place.at(cell.name);
      result.cells[i] = is_left(status[i]) ? seconds : -1;
    }
  }
  return result;
}

std::vector<std::size_t> most_urgent(const std::vector<CellStatus>& status, std::size_t rows) {
  std::vector<std::size_t> places(status.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  if (places.size() > rows) {
    std::stable_sort(places.begin(), places.end(), [&](std::size_t a, std::size_t b) {
      return urgency(status[a]) < urgency(status[b]);
    });
    places.resize(rows);
  }
  return places;
}

std::vector<BoardLine> sweep_board(const std::string& heading, const std::vector<BoardCell>& cells,
                                   std::size_t rows) {
  std::vector<CellStatus> status;
  std::size_t width = 0;
  for (const BoardCell& cell : cells) {
    status.push_back(cell.status);
    width = std::max(width, std::min(kNameWidth, cell.name.size()));
  }
  const bool has_room = cells.size() + 1 <= rows;
  const std::size_t least = rows > 2 ? rows - 2 : 0;
  const std::vector<std::size_t> shown = most_urgent(status, has_room ? cells.size() : least);
  std::vector<BoardLine> lines{{heading}};
  for (const std::size_t i : shown) {
    const BoardCell& cell = cells[i];
    std::string text =
        fmt::format("  {:<{}}  {}", cut_to(cell.name, kNameWidth), width, to_string(cell.status));
    if (cell.seconds_left >= 0) {
      text += fmt::format("  ETA {}", clock_text(cell.seconds_left));
    }
    lines.push_back({std::move(text), colour_of(cell.status)});
  }
  if (!has_room && rows > 1) {
    lines.push_back({fmt::format("  and {} more", cells.size() - shown.size())});
  }
  return lines;
}

}  // namespace bipo
