// The figures that tell a sweep's cells apart, one row per cell, from their run files.
#include "experiments/sweeps/cell_summary.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;
using hdf5::ValueColumn;

// The held-out pairs at one moment of the run.
struct Evaluation {
  std::int32_t epoch = 0;
  AtMultipliers accuracy;
  AtMultipliers margin;
};

void set_at(double multiplier, double value, AtMultipliers& figure) {
  if (multiplier == -1) {
    figure.minus = value;
  } else if (multiplier == 0) {
    figure.zero = value;
  } else if (multiplier == 1) {
    figure.plus = value;
  }
}

// Rows of one step stand together: one for each multiplier.
std::vector<Evaluation> evaluations_of(const std::vector<EvalRow>& rows) {
  std::vector<Evaluation> evaluations;
  std::optional<std::int64_t> step;
  for (const EvalRow& row : rows) {
    if (step != row.step) {
      evaluations.push_back({row.epoch, {}, {}});
      step = row.step;
    }
    set_at(row.multiplier, row.accuracy, evaluations.back().accuracy);
    set_at(row.multiplier, row.margin, evaluations.back().margin);
  }
  return evaluations;
}

double effect(const AtMultipliers& figure) {
  return figure.plus - figure.minus;
}

bool is_better(const Evaluation& a, const Evaluation& b) {
  const double difference = effect(a.accuracy) - effect(b.accuracy);
  return difference > 0 || (difference == 0 && effect(a.margin) > effect(b.margin));
}

// None where no evaluation has both -1 and +1.
std::optional<Evaluation> best_of(const std::vector<Evaluation>& evaluations) {
  std::optional<Evaluation> best;
  for (const Evaluation& evaluation : evaluations) {
    const bool is_comparable = !std::isnan(effect(evaluation.accuracy));
    if (is_comparable && (!best || is_better(evaluation, *best))) {
      best = evaluation;
    }
  }
  return best;
}

// -1 where the run's configuration does not say.
std::int64_t total_steps_of(const std::string& config) {
  const Json json = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  const auto integer = [&](const char* name) {
    const bool is_there = json.is_object() && json.contains(name) && json[name].is_number_integer();
    return is_there ? json[name].get<std::int64_t>() : std::int64_t{-1};
  };
  const std::int64_t pairs = integer("train_pairs");
  const std::int64_t batch_size = integer("batch_size");
  const std::int64_t epochs = integer("epochs");
  const std::int64_t max_steps = integer("max_steps");
  if (pairs < 1 || batch_size < 1 || epochs < 1 || max_steps < 0) {
    return -1;
  }
  const std::int64_t whole = epochs * ((pairs - 1) / batch_size + 1);
  return max_steps > 0 ? std::min(max_steps, whole) : whole;
}

using Rows = std::vector<CellSummary>;

struct NamedColumn {
  std::string name;
  const char* unit;
  const char* meaning;
  std::function<ValueColumn(const std::string& name, const Rows& rows)> make;
};

// A column of the type that `get` returns.
template <typename Get>
NamedColumn named(std::string name, const char* unit, const char* meaning, Get get) {
  const auto make = [get](const std::string& column, const Rows& rows) {
    std::vector<std::decay_t<std::invoke_result_t<Get, const CellSummary&>>> values;
    for (const CellSummary& row : rows) {
      values.push_back(std::invoke(get, row));
    }
    return ValueColumn{column, std::move(values)};
  };
  return {std::move(name), unit, meaning, make};
}

template <typename Value>
NamedColumn axis(const char* name, const char* unit, const char* meaning, Value Cell::*member) {
  return named(name, unit, meaning, [member](const CellSummary& row) { return row.cell.*member; });
}

// A column for each multiplier.
void append_figure(const std::string& name, const char* unit, const char* meaning,
                   AtMultipliers CellSummary::*figure, std::vector<NamedColumn>& columns) {
  const auto at = [figure](double AtMultipliers::*multiplier) {
    return [=](const CellSummary& row) { return row.*figure.*multiplier; };
  };
  columns.push_back(named(name + "_minus", unit, meaning, at(&AtMultipliers::minus)));
  columns.push_back(named(name + "_zero", unit, meaning, at(&AtMultipliers::zero)));
  columns.push_back(named(name + "_plus", unit, meaning, at(&AtMultipliers::plus)));
}

std::vector<NamedColumn> named_columns() {
  std::vector<NamedColumn> columns = {
      axis("cell", "name", "the cell, and its group in /runs", &Cell::name),
      named("status", "name", "complete, running, interrupted, failed, missing or unreadable",
            &CellSummary::status),
      axis("model", "name", "model of the sweep", &Cell::model),
      axis("data", "name", "data set of the sweep", &Cell::data),
      axis("layer", "1", "block whose output is steered, from 0", &Cell::layer),
      axis("seed", "1", "seed of shuffling and signs", &Cell::seed),
      axis("lr", "as lr_unit", "peak learning rate", &Cell::lr),
      axis("beta", "1", "beta of the objective", &Cell::beta),
      axis("sign", "name", "sign rule", &Cell::sign),
      axis("batch_size", "pairs", "pairs per optimiser step", &Cell::batch_size),
      axis("epochs", "1", "passes over the training pairs", &Cell::epochs),
      named("steps", "1", "optimiser steps done, -1: not known", &CellSummary::steps),
      named("total_steps", "1", "optimiser steps of the whole run, -1: not known",
            &CellSummary::total_steps),
      named("loss", "nats", "training loss of the last step", &CellSummary::loss),
      named("vector_norm", "hidden units", "Euclidean norm of the vector after the last step",
            &CellSummary::vector_norm),
  };
  append_figure("accuracy", "share", "last evaluation of the held-out pairs",
                &CellSummary::accuracy, columns);
  append_figure("margin", "nats", "last evaluation of the held-out pairs", &CellSummary::margin,
                columns);
  columns.push_back(named("best_epoch", "1",
                          "epoch, from 0, of the evaluation with the largest accuracy_plus - "
                          "accuracy_minus, -1: not known",
                          &CellSummary::best_epoch));
  append_figure("best_accuracy", "share", "that evaluation", &CellSummary::best_accuracy, columns);
  append_figure("best_margin", "nats", "that evaluation", &CellSummary::best_margin, columns);
  columns.push_back(named("seconds", "s", "wall time in steps", &CellSummary::seconds));
  columns.push_back(named("tokens_per_second", "tokens/s", "tokens of all steps over that time",
                          &CellSummary::tokens_per_second));
  columns.push_back(
      named("failure", "text", "why the cell failed or cannot be read", &CellSummary::failure));
  return columns;
}

// The settings that are not shared, as the plan groups them: one object for each model and data
// set, which it names.
const Json& own_settings(const Json& settings, const Cell& cell) {
  static const Json kNone = Json::object();
  if (!settings.contains("inputs") || !settings["inputs"].is_array()) {
    return kNone;
  }
  const Json& inputs = settings["inputs"];
  const auto own = std::find_if(inputs.begin(), inputs.end(), [&](const Json& candidate) {
    return candidate.is_object() && candidate.value("model", Json()) == cell.model &&
           candidate.value("data", Json()) == cell.data;
  });
  return own == inputs.end() ? kNone : *own;
}

std::vector<std::string> setting_names(const Json& settings) {
  std::vector<std::string> names;
  const auto append = [&](const Json& object) {
    for (const auto& [name, value] : object.items()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
  };
  append(settings);
  std::erase(names, "inputs");
  if (settings.contains("inputs") && settings["inputs"].is_array()) {
    for (const Json& inputs : settings["inputs"]) {
      append(inputs.is_object() ? inputs : Json::object());
    }
  }
  return names;
}

std::int64_t integer_of(const Json& value) {
  return value.is_boolean() ? std::int64_t{value.get<bool>()} : value.get<std::int64_t>();
}

bool fits_integer(const Json& value) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
  return value.is_boolean() || (value.is_number_unsigned() ? value.get<std::uint64_t>() <= kMost
                                                           : value.is_number_integer());
}

std::string text_of(const Json& value) {
  if (value.is_null()) {
    return "";
  }
  return value.is_string() ? value.get<std::string>() : value.dump();
}

template <typename Value, typename Convert>
ValueColumn converted(const std::string& name, const std::vector<Json>& values, Convert convert) {
  std::vector<Value> result;
  std::transform(values.begin(), values.end(), std::back_inserter(result), convert);
  return {name, std::move(result)};
}

// Integers and truth values (0, 1), numbers, or texts; lists and the like as JSON.
ValueColumn setting_column(const std::string& name, const std::vector<Json>& values) {
  if (std::all_of(values.begin(), values.end(), fits_integer)) {
    return converted<std::int64_t>(name, values, integer_of);
  }
  const auto is_number = [](const Json& value) { return value.is_number(); };
  if (std::all_of(values.begin(), values.end(), is_number)) {
    return converted<double>(name, values, [](const Json& value) { return value.get<double>(); });
  }
  return converted<std::string>(name, values, text_of);
}

}  // namespace

void add_run(const RunRecord& record, CellSummary& summary) {
  summary.steps = record.checkpoint.step;
  summary.total_steps = total_steps_of(record.attributes.config);
  if (!record.steps.empty()) {
    summary.loss = record.steps.back().loss;
    summary.vector_norm = record.steps.back().vector_norm;
    double tokens = 0;
    summary.seconds = 0;
    for (const StepRow& row : record.steps) {
      summary.seconds += row.seconds;
      tokens += row.tokens;
    }
    if (summary.seconds > 0) {
      summary.tokens_per_second = tokens / summary.seconds;
    }
  }
  const std::vector<Evaluation> evaluations = evaluations_of(record.evals);
  if (!evaluations.empty()) {
    summary.accuracy = evaluations.back().accuracy;
    summary.margin = evaluations.back().margin;
  }
  if (const auto best = best_of(evaluations)) {
    summary.best_epoch = best->epoch;
    summary.best_accuracy = best->accuracy;
    summary.best_margin = best->margin;
  }
}

std::vector<ValueColumn> summary_columns(const Rows& rows, const std::string& settings_text) {
  std::vector<ValueColumn> columns;
  std::set<std::string> taken;
  for (const NamedColumn& column : named_columns()) {
    columns.push_back(column.make(column.name, rows));
    taken.insert(column.name);
  }
  const Json settings = Json::parse(settings_text);
  for (const std::string& name : setting_names(settings)) {
    if (taken.contains(name)) {
      continue;
    }
    std::vector<Json> values;
    for (const CellSummary& row : rows) {
      const Json& own = own_settings(settings, row.cell);
      values.push_back(own.contains(name) ? own[name] : settings.value(name, Json()));
    }
    columns.push_back(setting_column(name, values));
  }
  return columns;
}

std::string summary_units() {
  Json units;
  for (const NamedColumn& column : named_columns()) {
    units[column.name] = {{"unit", column.unit}, {"meaning", column.meaning}};
  }
  return units.dump();
}

}  // namespace bipo
