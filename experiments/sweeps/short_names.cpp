#include "experiments/sweeps/short_names.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <set>

namespace bipo {
namespace {

constexpr std::size_t kAxes = 18;
constexpr std::size_t kLayer = 2;
constexpr std::size_t kLongestList = 60;

std::array<std::string, kAxes> parts_of(const Cell& cell) {
  return {cell.model,
          cell.data,
          "layer" + to_string(steered_layers(cell), "+"),
          fmt::format("seed{}", cell.seed),
          fmt::format("lr{}", cell.lr),
          fmt::format("beta{}", cell.beta),
          cell.objective,
          fmt::format("smoothing{}", cell.label_smoothing),
          fmt::format("gamma{}", cell.simpo_gamma),
          cell.reduction,
          cell.positions,
          fmt::format("sign{}", cell.sign),
          fmt::format("batch{}", cell.batch_size),
          fmt::format("epochs{}", cell.epochs),
          "norm" + cell.norm,
          cell.schedule,
          "init" + cell.init,
          "factors" + cell.factors};
}

}  // namespace

ShortNames::ShortNames(const std::vector<Cell>& cells) {
  std::array<std::set<std::string>, kAxes> values;
  for (const Cell& cell : cells) {
    const auto parts = parts_of(cell);
    for (std::size_t axis = 0; axis < kAxes; ++axis) {
      values[axis].insert(parts[axis]);
    }
  }
  const bool all_alike = std::all_of(values.begin(), values.end(),
                                     [](const auto& of_axis) { return of_axis.size() < 2; });
  std::set<std::string> used;
  for (const Cell& cell : cells) {
    const auto parts = parts_of(cell);
    std::vector<std::string> differing;
    for (std::size_t axis = 0; axis < kAxes; ++axis) {
      if (values[axis].size() > 1 || (all_alike && axis == kLayer)) {
        differing.push_back(parts[axis]);
      }
    }
    by_name_[cell.name] = fmt::format("{}", fmt::join(differing, "-"));
    used.insert(by_name_[cell.name]);
  }
  if (used.size() != by_name_.size()) {
    by_name_.clear();  // a plan that does not say all values
  }
}

std::string ShortNames::of(const Cell& cell) const {
  const auto found = by_name_.find(cell.name);
  return found == by_name_.end() ? cell.name : found->second;
}

std::string ShortNames::of(const std::vector<Cell>& members) const {
  std::vector<std::string> names;
  for (const Cell& cell : members) {
    names.push_back(of(cell));
  }
  const std::string list = fmt::format("{}", fmt::join(names, ", "));
  return names.size() < 3 || list.size() <= kLongestList
             ? list
             : fmt::format("{} to {} ({} cells)", names.front(), names.back(), names.size());
}

}  // namespace bipo
