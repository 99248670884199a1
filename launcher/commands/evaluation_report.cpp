#include "launcher/commands/evaluation_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace bipo {
namespace {

// Rows of cells under headings: the first column is left-aligned, the others right-aligned.
class TextTable {
 public:
  TextTable(std::string title, std::vector<std::string> headings)
      : title_(std::move(title)), rows_{std::move(headings)} {}

  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // Returns "" if there are no rows.
  std::string text() const {
    if (rows_.size() == 1) {
      return "";
    }
    std::vector<std::size_t> widths(rows_.front().size(), 0);
    for (const auto& row : rows_) {
      for (std::size_t column = 0; column < row.size(); ++column) {
        widths[column] = std::max(widths[column], row[column].size());
      }
    }
    std::string text = title_ + "\n";
    for (const auto& row : rows_) {
      for (std::size_t column = 0; column < row.size(); ++column) {
        text += column == 0 ? fmt::format("  {:<{}}", row[column], widths[column])
                            : fmt::format("  {:>{}}", row[column], widths[column]);
      }
      text += '\n';
    }
    return text + '\n';
  }

 private:
  std::string title_;
  std::vector<std::vector<std::string>> rows_;
};

std::string signed_number(double value) {
  return fmt::format("{:+.3f}", value);
}

std::string signed_interval(const Interval& interval) {
  return fmt::format("{:+.3f} [{:+.3f}, {:+.3f}]", interval.value, interval.low, interval.high);
}

std::string interval(const Interval& interval) {
  return fmt::format("{:.4g} [{:.4g}, {:.4g}]", interval.value, interval.low, interval.high);
}

std::string percent(const Interval& share) {
  return fmt::format("{:.1f} [{:.1f}, {:.1f}]", 100 * share.value, 100 * share.low,
                     100 * share.high);
}

std::string multiplier_text(double multiplier) {
  return fmt::format("{:+g}", multiplier);
}

bool is_further_draw(const std::string& direction) {
  return direction.starts_with("random-");
}

// How far a direction moves propensity from the first multiplier to the last.
std::map<std::string, double> moves_of(const std::vector<CurveRow>& rows) {
  const auto [lowest, highest] = std::minmax_element(
      rows.begin(), rows.end(),
      [](const CurveRow& a, const CurveRow& b) { return a.multiplier < b.multiplier; });
  std::map<std::string, double> moves;
  for (const CurveRow& row : rows) {
    if (row.multiplier == lowest->multiplier) {
      moves[row.direction] -= row.propensity.value;
    } else if (row.multiplier == highest->multiplier) {
      moves[row.direction] += row.propensity.value;
    }
  }
  return moves;
}

// The vector beside all random directions, where there are several: its rank among them.
struct Draws {
  std::size_t count = 0;
  double least = 0;  // nats, from the lowest multiplier to the highest
  double most = 0;
  double vector = 0;
  std::int64_t as_far = 0;  // of the draws

  double p() const { return static_cast<double>(as_far + 1) / static_cast<double>(count + 1); }
};

std::optional<Draws> draws_of(const std::vector<CurveRow>& rows) {
  if (rows.empty()) {
    return std::nullopt;
  }
  std::map<std::string, double> moves = moves_of(rows);
  const double own = moves["vector"];
  std::vector<double> drawn;
  for (const auto& [direction, move] : moves) {
    if (direction == "random" || is_further_draw(direction)) {
      drawn.push_back(move);
    }
  }
  if (drawn.size() < 2) {
    return std::nullopt;
  }
  const auto as_far = std::count_if(drawn.begin(), drawn.end(),
                                    [&](double move) { return std::abs(move) >= std::abs(own); });
  const auto [least, most] = std::minmax_element(drawn.begin(), drawn.end());
  return Draws{drawn.size(), *least, *most, own, as_far};
}

std::string draws_text(const std::vector<CurveRow>& rows) {
  const std::optional<Draws> draws = draws_of(rows);
  if (!draws) {
    return "";
  }
  return fmt::format(
      "{} random directions move propensity by {} to {} nats from the lowest multiplier to the "
      "highest,\nthe vector by {}; {} of them as far as the vector: p = {:.3g}, by rank\n\n",
      draws->count, signed_number(draws->least), signed_number(draws->most),
      signed_number(draws->vector), draws->as_far, draws->p());
}

std::string points(const Interval& share) {
  return fmt::format("{:+.1f} [{:+.1f}, {:+.1f}]", 100 * share.value, 100 * share.low,
                     100 * share.high);
}

std::string chosen_text(const std::vector<ChosenRow>& rows) {
  TextTable table(rows.empty()
                      ? ""
                      : fmt::format("multipliers chosen on {} pairs by the largest change of "
                                    "propensity, and what they change on the {} others",
                                    rows.front().choosing_pairs, rows.front().pairs),
                  {"direction", "aim", "multiplier", "where chosen, nats", "on the others, nats",
                   "accuracy there, points"});
  for (const ChosenRow& row : rows) {
    table.add({row.direction, row.aim > 0 ? "highest" : "lowest", multiplier_text(row.multiplier),
               signed_number(row.chosen_on), signed_interval(row.propensity),
               points(row.accuracy)});
  }
  return table.text();
}

std::string curve_text(const std::vector<CurveRow>& rows) {
  TextTable table(
      fmt::format("held-out pairs: {}; [95 % interval]", rows.empty() ? 0 : rows.front().pairs),
      {"direction", "multiplier", "accuracy %", "propensity, nats", "per token", "margin"});
  for (const CurveRow& row : rows) {
    if (is_further_draw(row.direction)) {
      continue;
    }
    table.add({row.direction, multiplier_text(row.multiplier), percent(row.accuracy),
               signed_interval(row.propensity), signed_number(row.propensity_per_token.value),
               signed_interval(row.margin)});
  }
  return table.text();
}

std::string steerability_text(const std::vector<SteerabilityRow>& rows) {
  TextTable table("steerability: slope of propensity over the multipliers, pair by pair",
                  {"direction", "norm", "steerability", "s.d.", "anti-steerable %", "Spearman"});
  for (const SteerabilityRow& row : rows) {
    if (is_further_draw(row.direction)) {
      continue;
    }
    table.add({row.direction, fmt::format("{:.4g}", row.norm), signed_interval(row.steerability),
               fmt::format("{:.3f}", row.steerability_sd), percent(row.anti_steerable),
               signed_interval(row.spearman)});
  }
  return table.text();
}

std::string choices_text(const std::vector<ChoiceRow>& rows) {
  const bool has_mc =
      std::any_of(rows.begin(), rows.end(), [](const ChoiceRow& row) { return row.kind == "mc"; });
  TextTable table(
      has_mc ? "multiple choice; of mc, accuracy is MC1 and probability MC2" : "multiple choice",
      {"set", "kind", "direction", "multiplier", "items", "accuracy %", "probability %",
       "macro %"});
  for (const ChoiceRow& row : rows) {
    table.add({row.set, row.kind, row.direction, multiplier_text(row.multiplier),
               fmt::format("{}", row.items), percent(row.accuracy), percent(row.probability),
               fmt::format("{:.1f}", 100 * row.macro_accuracy)});
  }
  return table.text();
}

std::string costs_text(const std::vector<CostRow>& rows) {
  TextTable table("costs", {"measure", "direction", "multiplier", "value", "items"});
  for (const CostRow& row : rows) {
    table.add({row.measure, row.direction, multiplier_text(row.multiplier), interval(row.value),
               fmt::format("{}", row.items)});
  }
  return table.text();
}

// Returns the names of the vectors' files in the evaluation's settings, without their folders.
std::vector<std::string> vector_files(const std::string& config) {
  const auto json = nlohmann::json::parse(config, nullptr, /*allow_exceptions=*/false);
  const auto vectors =
      json.is_object() ? json.value("vectors", nlohmann::json()) : nlohmann::json();
  std::vector<std::string> names;
  for (const auto& vector : vectors.is_array() ? vectors : nlohmann::json::array()) {
    const auto file =
        vector.is_object() ? vector.value("file", nlohmann::json()) : nlohmann::json();
    names.push_back(
        file.is_string() ? std::filesystem::path(file.get<std::string>()).filename().string() : "");
  }
  return names;
}

std::string grid_text(const std::vector<GridRow>& rows, const std::string& config) {
  const std::vector<std::string> names = vector_files(config);
  TextTable table(names.size() == 2
                      ? fmt::format("two vectors: 1 is {}, 2 is {}", names[0], names[1])
                      : "two vectors",
                  {"multiplier 1", "multiplier 2", "accuracy %", "propensity, nats", "margin"});
  for (const GridRow& row : rows) {
    table.add({multiplier_text(row.multiplier_1), multiplier_text(row.multiplier_2),
               percent(row.accuracy), signed_interval(row.propensity), signed_number(row.margin)});
  }
  return table.text();
}

}  // namespace

nlohmann::ordered_json random_directions_as_json(const Evaluation& evaluation) {
  const std::optional<Draws> draws = draws_of(evaluation.curve);
  if (!draws) {
    return nullptr;
  }
  return {{"draws", draws->count},   {"least", draws->least},   {"most", draws->most},
          {"vector", draws->vector}, {"as_far", draws->as_far}, {"p", draws->p()}};
}

std::string judge_text(const std::vector<JudgeSummary>& rows, const JudgeScale& scale) {
  TextTable table(fmt::format("judge, {}", scale.words()),
                  {"behaviour", "multiplier", "score", "items", "errors"});
  for (const JudgeSummary& row : rows) {
    table.add({row.behaviour, multiplier_text(row.multiplier), interval(row.score),
               fmt::format("{}", row.items), fmt::format("{}", row.errors)});
  }
  return table.text();
}

std::string evaluation_text(const Evaluation& evaluation) {
  return curve_text(evaluation.curve) + draws_text(evaluation.curve) +
         steerability_text(evaluation.steerability) + chosen_text(evaluation.chosen) +
         choices_text(evaluation.choices) + costs_text(evaluation.costs) +
         grid_text(evaluation.grid, evaluation.attributes.config) +
         judge_text(evaluation.judge, evaluation.judge_scale);
}

}  // namespace bipo
