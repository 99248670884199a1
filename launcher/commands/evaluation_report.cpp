#include "launcher/commands/evaluation_report.hpp"

#include <fmt/format.h>

#include <algorithm>
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

std::string curve_text(const std::vector<CurveRow>& rows) {
  TextTable table(
      fmt::format("held-out pairs: {}; [95 % interval]", rows.empty() ? 0 : rows.front().pairs),
      {"direction", "multiplier", "accuracy %", "propensity, nats", "per token", "margin"});
  for (const CurveRow& row : rows) {
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
    table.add({row.direction, fmt::format("{:.4g}", row.norm), signed_interval(row.steerability),
               fmt::format("{:.3f}", row.steerability_sd), percent(row.anti_steerable),
               signed_interval(row.spearman)});
  }
  return table.text();
}

std::string choices_text(const std::vector<ChoiceRow>& rows) {
  TextTable table("multiple choice", {"set", "kind", "direction", "multiplier", "items",
                                      "accuracy %", "probability %", "macro %"});
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

std::string grid_text(const std::vector<GridRow>& rows) {
  TextTable table("two vectors",
                  {"multiplier 1", "multiplier 2", "accuracy %", "propensity, nats", "margin"});
  for (const GridRow& row : rows) {
    table.add({multiplier_text(row.multiplier_1), multiplier_text(row.multiplier_2),
               percent(row.accuracy), signed_interval(row.propensity), signed_number(row.margin)});
  }
  return table.text();
}

}  // namespace

std::string judge_text(const std::vector<JudgeSummary>& rows) {
  TextTable table("judge, 1 to 4", {"behaviour", "multiplier", "score", "items", "errors"});
  for (const JudgeSummary& row : rows) {
    table.add({row.behaviour, multiplier_text(row.multiplier), interval(row.score),
               fmt::format("{}", row.items), fmt::format("{}", row.errors)});
  }
  return table.text();
}

std::string evaluation_text(const Evaluation& evaluation) {
  return curve_text(evaluation.curve) + steerability_text(evaluation.steerability) +
         choices_text(evaluation.choices) + costs_text(evaluation.costs) +
         grid_text(evaluation.grid) + judge_text(evaluation.judge);
}

}  // namespace bipo
