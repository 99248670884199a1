// The figures by which a sweep's cells are compared: one row per cell, from their run files.
#include "experiments/sweeps/cell_summary.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>
#include <utility>

#include "trainer/intervention/site.hpp"
#include "trainer/records/best_epoch.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// The figures of the held-out pairs at one step of the run.
struct Evaluation {
  std::int64_t step = 0;
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

// Rows of one step follow each other: one for each multiplier.
std::vector<Evaluation> evaluations_of(const std::vector<EvalRow>& rows) {
  std::vector<Evaluation> evaluations;
  std::optional<std::int64_t> step;
  for (const EvalRow& row : rows) {
    if (step != row.step) {
      evaluations.push_back({row.step, {}, {}});
      step = row.step;
    }
    set_at(row.multiplier, row.accuracy, evaluations.back().accuracy);
    set_at(row.multiplier, row.margin, evaluations.back().margin);
  }
  return evaluations;
}

// Returns -1 where the run's configuration lacks a value.
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

constexpr hdf5::Part<AtMultipliers> kMultipliers[] = {{"_minus", &AtMultipliers::minus},
                                                      {"_zero", &AtMultipliers::zero},
                                                      {"_plus", &AtMultipliers::plus}};

hdf5::Table<CellSummary> summary_table(bool has_origins) {
  using Row = CellSummary;
  hdf5::Table<Row> table("summary");
  table.column("cell", "name", "the cell, and its group in /runs", &Row::cell, &Cell::name)
      .column("status", "name", "complete, running, interrupted, failed, missing or unreadable",
              &Row::status)
      .column("model", "name", "model of the sweep", &Row::cell, &Cell::model)
      .column("data", "name", "data set of the sweep", &Row::cell, &Cell::data)
      .column("layer", "1", "block that is steered, from 0; the lowest of joint_layers", &Row::cell,
              &Cell::layer)
      .column("seed", "1", "seed of shuffling and signs", &Row::cell, &Cell::seed)
      .column("lr", "as lr_unit", "peak learning rate", &Row::cell, &Cell::lr)
      .column("beta", "1", "beta of the objective", &Row::cell, &Cell::beta)
      .column("sign", "name", "sign rule", &Row::cell, &Cell::sign)
      .column("batch_size", "pairs", "pairs per optimiser step", &Row::cell, &Cell::batch_size)
      .column("epochs", "1", "passes over the training pairs", &Row::cell, &Cell::epochs)
      .column("site", "name", "what of the block is steered: block, its output, or mlp, its MLP's",
              &Row::site)
      .column("steps", "1", "optimiser steps done, -1: not known", &Row::steps)
      .column("total_steps", "1", "optimiser steps of the whole run, -1: not known",
              &Row::total_steps)
      .column("loss", "nats", "training loss of the last step", &Row::loss)
      .column("vector_norm", "hidden units", "Euclidean norm of the vector after the last step",
              &Row::vector_norm)
      .parts<AtMultipliers>("accuracy", "share", "last evaluation of the held-out pairs",
                            &Row::accuracy, kMultipliers)
      .parts<AtMultipliers>("margin", "nats", "last evaluation of the held-out pairs", &Row::margin,
                            kMultipliers)
      .column("best_epoch", "1",
              "epoch, from 0, of the evaluation with the largest margin_plus - margin_minus, "
              "-1: not known",
              &Row::best_epoch)
      .parts<AtMultipliers>("best_accuracy", "share", "that evaluation", &Row::best_accuracy,
                            kMultipliers)
      .parts<AtMultipliers>("best_margin", "nats", "that evaluation", &Row::best_margin,
                            kMultipliers)
      .column("seconds", "s", "wall time in steps", &Row::seconds)
      .column("tokens_per_second", "tokens/s", "tokens of all steps over that time",
              &Row::tokens_per_second)
      .column("failure", "text", "why the cell failed or cannot be read", &Row::failure);
  if (has_origins) {
    table.column("origin", "path", "the sweep's directory or the run file that was collected",
                 &Row::origin);
  }
  return table;
}

// The columns of a sweep that has more than BiPO's own form, at all tokens.
using CellValue = Json (*)(const Cell& cell);
constexpr std::pair<const char*, CellValue> kObjectiveAxes[] = {
    {"objective", [](const Cell& cell) { return Json(cell.objective); }},
    {"label_smoothing", [](const Cell& cell) { return Json(cell.label_smoothing); }},
    {"simpo_gamma", [](const Cell& cell) { return Json(cell.simpo_gamma); }},
    {"reduction", [](const Cell& cell) { return Json(cell.reduction); }},
    {"steered_positions", [](const Cell& cell) { return Json(cell.positions); }}};

bool has_other_objectives(const std::vector<CellSummary>& rows) {
  const Cell usual;
  return std::any_of(rows.begin(), rows.end(), [&](const CellSummary& row) {
    return std::any_of(std::begin(kObjectiveAxes), std::end(kObjectiveAxes), [&](const auto& axis) {
      return axis.second(row.cell) != axis.second(usual);
    });
  });
}

// Returns the settings that not all cells share: an object for each model and data set, which it
// names.
Json inputs_of(const Json& settings) {
  const Json inputs = settings.value("inputs", Json());
  return inputs.is_array() ? inputs : Json::array();
}

// Returns the site that the settings of the cell's source name; where they name none, the block's
// output.
std::string site_by(const Json& settings, const Cell& cell) {
  const Json own = own_settings(settings, cell);
  const Json site = (own.contains(kSiteSetting) ? own : settings).value(kSiteSetting, Json());
  return site.is_string() ? site.get<std::string>() : to_string(Site::kBlock);
}

std::vector<std::string> setting_names(const std::vector<Json>& of_sources) {
  std::vector<std::string> names;
  const auto append = [&](const Json& object) {
    for (const auto& [name, value] : object.items()) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
  };
  for (const Json& settings : of_sources) {
    append(settings);
    std::erase(names, "inputs");
    for (const Json& inputs : inputs_of(settings)) {
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

// Appends a column of integers and truth values (0, 1), of numbers, or of texts, with lists and the
// like as JSON, and one value to the settings of each row.
void add_setting(const std::string& name, std::size_t place, const std::vector<Json>& values,
                 hdf5::Table<CellSummary>& table, std::vector<CellSummary>& rows) {
  const auto add = [&](const auto& convert) {
    using Value = std::decay_t<decltype(convert(values.front()))>;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i].settings.emplace_back(convert(values[i]));
    }
    table.column(
        name, nullptr,
        nullptr, [place](auto& row) -> auto& { return std::get<Value>(row.settings[place]); });
  };
  if (std::all_of(values.begin(), values.end(), fits_integer)) {
    add(integer_of);
  } else if (std::all_of(values.begin(), values.end(),
                         [](const Json& value) { return value.is_number(); })) {
    add([](const Json& value) { return value.get<double>(); });
  } else {
    add(text_of);
  }
}

}  // namespace

void add_run(const RunRecord& record, CellSummary& summary) {
  summary.site = to_string(record.attributes.site);
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
  if (const auto best = best_epoch(record.evals)) {
    summary.best_epoch = best->epoch;
    const auto own =
        std::find_if(evaluations.begin(), evaluations.end(),
                     [&](const Evaluation& evaluation) { return evaluation.step == best->step; });
    summary.best_accuracy = own->accuracy;
    summary.best_margin = own->margin;
  }
}

void write_summary(const hdf5::Handle& file, std::vector<CellSummary> rows,
                   const std::vector<std::string>& settings_texts) {
  hdf5::Table<CellSummary> table = summary_table(std::any_of(
      rows.begin(), rows.end(), [](const CellSummary& row) { return !row.origin.empty(); }));
  std::vector<Json> settings;
  for (const std::string& text : settings_texts) {
    settings.push_back(Json::parse(text));
  }
  for (CellSummary& row : rows) {
    if (row.site.empty()) {
      row.site = site_by(settings.at(row.source), row.cell);
    }
  }
  std::size_t place = 0;  // in the settings of a row
  if (has_other_objectives(rows)) {
    for (const auto& [name, value] : kObjectiveAxes) {
      std::vector<Json> values;
      for (const CellSummary& row : rows) {
        values.push_back(value(row.cell));
      }
      add_setting(name, place++, values, table, rows);
    }
  }
  // Settings that are no axis of the sweep are among the shared ones.
  const Cell usual;
  for (const auto& [name, member] : kSettingAxes) {
    if (std::all_of(rows.begin(), rows.end(), [&, member = member](const CellSummary& row) {
          return row.cell.*member == usual.*member;
        })) {
      continue;
    }
    std::vector<Json> values;
    for (const CellSummary& row : rows) {
      values.push_back(row.cell.*member == usual.*member
                           ? settings.at(row.source).value(name, Json(usual.*member))
                           : Json(row.cell.*member));
    }
    add_setting(name, place++, values, table, rows);
  }
  for (const std::string& name : setting_names(settings)) {
    if (table.has_column(name)) {
      continue;
    }
    std::vector<Json> values;
    for (const CellSummary& row : rows) {
      const Json& of_source = settings.at(row.source);
      const Json own = own_settings(of_source, row.cell);
      values.push_back(own.contains(name) ? own[name] : of_source.value(name, Json()));
    }
    add_setting(name, place++, values, table, rows);
  }
  table.write(file, rows);
}

Json own_settings(const Json& settings, const Cell& cell) {
  for (const Json& inputs : inputs_of(settings)) {
    if (inputs.is_object() && inputs.value("model", Json()) == cell.model &&
        inputs.value("data", Json()) == cell.data) {
      return inputs;
    }
  }
  return Json::object();
}

}  // namespace bipo
