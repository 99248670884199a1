#include "experiments/runs/inspect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <span>
#include <string>
#include <utility>

#include "trainer/records/best_epoch.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

// Every row has as many cells as the first, which holds the headings.
using TextTable = std::vector<std::vector<std::string>>;

std::vector<std::size_t> column_widths(const TextTable& table) {
  std::vector<std::size_t> widths(table.front().size(), 0);
  for (const auto& row : table) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      widths[column] = std::max(widths[column], row[column].size());
    }
  }
  return widths;
}

// Right-aligned, so that digits are in columns.
void print_table(std::ostream& out, const TextTable& table) {
  const std::vector<std::size_t> widths = column_widths(table);
  for (const auto& row : table) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      out << fmt::format("  {:>{}}", row[column], widths[column]);
    }
    out << '\n';
  }
}

using Settings = std::vector<std::pair<std::string, std::string>>;

std::size_t name_width(const Settings& settings) {
  std::size_t width = 0;
  for (const auto& [name, value] : settings) {
    width = std::max(width, name.size());
  }
  return width;
}

void print_settings(std::ostream& out, const Settings& settings, std::size_t width) {
  for (const auto& [name, value] : settings) {
    out << fmt::format("  {:<{}}  {}\n", name, width, value);
  }
}

// Prints short values in two columns, the left one first, and long values below them.
void print_settings_in_two_columns(std::ostream& out, const Settings& settings) {
  constexpr std::size_t kShortValue = 24;
  Settings beside;
  Settings below;
  for (const auto& setting : settings) {
    (setting.second.size() <= kShortValue ? beside : below).push_back(setting);
  }
  const std::size_t width = name_width(settings);
  const std::size_t lines = (beside.size() + 1) / 2;
  for (std::size_t line = 0; line < lines; ++line) {
    const auto& [name, value] = beside[line];
    if (line + lines < beside.size()) {
      const auto& [right_name, right_value] = beside[line + lines];
      out << fmt::format("  {:<{}}  {:<{}}  {:<{}}  {}\n", name, width, value, kShortValue,
                         right_name, width, right_value);
    } else {
      out << fmt::format("  {:<{}}  {}\n", name, width, value);
    }
  }
  print_settings(out, below, width);
}

// Escapes as JSON the control characters of a text from a file, which must not reach the terminal.
std::string printable(const std::string& text) {
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const bool is_plain = quoted.size() == text.size() + 2;
  return is_plain ? text : quoted;
}

std::string setting_text(const nlohmann::ordered_json& value) {
  const bool shows_by_itself = value.is_string() && !value.get<std::string>().empty();
  return shows_by_itself ? printable(value.get<std::string>()) : value.dump();
}

// The metadata of an imported file can be many screens long: the text of such a value is cut.
std::string shortened(std::string text) {
  constexpr std::size_t kMostShown = 1000;
  if (text.size() <= kMostShown) {
    return text;
  }
  const std::size_t size = text.size();
  std::size_t end = kMostShown;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;  // not within a character of UTF-8
  }
  text.resize(end);
  return fmt::format("{} ... ({} of {} bytes; --json shows all)", text, end, size);
}

Settings config_settings(const std::string& config) {
  const auto values = nlohmann::ordered_json::parse(config);
  Settings settings;
  for (const auto& [name, value] : values.items()) {
    settings.emplace_back(printable(name), shortened(setting_text(value)));
  }
  return settings;
}

std::string percent(double share) {
  return fmt::format("{:.1f}%", 100 * share);
}

void print_run_attributes(std::ostream& out, const RunAttributes& run) {
  Settings settings = {
      {"model", printable(run.model)},
      {"layer",
       fmt::format("{}{} (hidden size {})", to_string(steered_layers(run)),
                   run.site == Site::kBlock ? "" : ", at the output of the MLP", run.hidden_size)},
      {"status", to_string(run.status)},
      {"created", printable(run.created_utc)},
      {"program", printable(fmt::format("bipo-dist {} ({})", run.program_version, run.git_commit))},
      {"ranks", fmt::format("{} = dp {} x tp {}", run.world_size, run.dp, run.tp)},
      {"backend", printable(fmt::format("{}, {}", run.backend, run.dtype))},
      {"hosts", printable(run.hosts)}};
  if (!run.verdict.empty()) {
    settings.emplace_back("verdict", printable(run.verdict));
  }
  print_settings(out, settings, name_width(settings));
}

// Both apertures, or why there is none.
std::string aperture_text(const ConceptorAttributes& conceptor) {
  if (!conceptor.aperture) {
    return "none: made of other conceptors";
  }
  const std::string absolute =
      conceptor.absolute_aperture
          ? fmt::format(" ({:.4g} of the activations themselves)", *conceptor.absolute_aperture)
          : "";
  return fmt::format("{:g} in residual units{}", *conceptor.aperture, absolute);
}

std::string rate(double tokens, double seconds) {
  return seconds > 0 ? fmt::format("{:.1f}", tokens / seconds) : "-";
}

// Returns why a complete run ended before its last epoch; "" where it did not.
std::string early_end(const RunRecord& record) {
  const auto config = nlohmann::json::parse(record.attributes.config);
  const auto integer = [&](const char* name) {
    const auto found = config.find(name);
    return found != config.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
  };
  const std::int64_t since = evaluations_since_best(record.evals);
  const bool is_out_of_patience = integer("patience") > 0 && since >= integer("patience");
  const bool has_steps_left =
      is_out_of_patience && record.evals.back().epoch + 1 < integer("epochs") &&
      (integer("max_steps") == 0 || record.checkpoint.step < integer("max_steps"));
  return record.attributes.status == RunStatus::kComplete && has_steps_left
             ? fmt::format("no larger held-out margin in {} evaluations (--patience)", since)
             : "";
}

// Sums over the logged steps.
struct Work {
  double seconds = 0;
  double tokens = 0;
};

Work work_of(const std::vector<StepRow>& steps) {
  Work work;
  for (const StepRow& row : steps) {
    work.seconds += row.seconds;
    work.tokens += row.tokens;
  }
  return work;
}

std::int64_t epochs_begun(const std::vector<StepRow>& steps) {
  return steps.empty() ? 0 : steps.back().epoch + 1;
}

void print_progress(std::ostream& out, const RunRecord& record) {
  const Work work = work_of(record.steps);
  Settings settings = {
      {"checkpoint", fmt::format("{} steps done", record.checkpoint.step)},
      {"steps logged", fmt::format("{}", record.steps.size())},
      {"epochs begun", fmt::format("{}", epochs_begun(record.steps))},
      {"time in steps", fmt::format("{:.1f} s", work.seconds)},
      {"tokens/s", rate(work.tokens, work.seconds)},
  };
  const std::string early = early_end(record);
  if (!early.empty()) {
    settings.emplace_back("ended early", early);
  }
  print_settings(out, settings, name_width(settings));
}

std::vector<std::string> step_cells(const StepRow& row) {
  return {fmt::format("{}", row.step),          fmt::format("{}", row.epoch + 1),
          fmt::format("{:.4e}", row.lr),        fmt::format("{:.4f}", row.loss),
          fmt::format("{:.4f}", row.margin),    percent(row.accuracy),
          fmt::format("{:.4f}", row.grad_norm), fmt::format("{:.4f}", row.vector_norm)};
}

// Prints the rows below the headings; an extracted direction is complete without any.
void print_rows(std::ostream& out, const TextTable& table, RunStatus status) {
  if (table.size() > 1) {
    print_table(out, table);
  } else {
    out << (status == RunStatus::kComplete ? "  none\n" : "  none yet\n");
  }
}

TextTable first_and_last_step(const std::vector<StepRow>& steps) {
  TextTable table = {{"step", "epoch", "lr", "loss", "margin", "accuracy", "grad norm", "|v|"}};
  if (!steps.empty()) {
    table.push_back(step_cells(steps.front()));
  }
  if (steps.size() > 1) {
    table.push_back(step_cells(steps.back()));
  }
  return table;
}

// Returns the norm of the vector of each layer, where a run has several.
std::vector<double> norms_by_layer(const SavedVector& saved, const RunAttributes& run) {
  std::vector<double> norms;
  if (run.higher_layers.empty()) {
    return norms;
  }
  const std::size_t layers = run.higher_layers.size() + 1;
  const std::size_t hidden = saved.value.size() / layers;
  for (std::size_t i = 0; i < layers; ++i) {
    norms.push_back(vector_norm(std::span(saved.value).subspan(i * hidden, hidden)));
  }
  return norms;
}

TextTable vector_table(const RunRecord& record) {
  const bool is_learned = record.checkpoint.factor.has_value();
  const RunAttributes& run = record.attributes;
  TextTable table = {{"row", "epoch", "steps done", "|v|"}};
  if (!run.higher_layers.empty()) {
    for (const std::int64_t layer : steered_layers(run).blocks()) {
      table.front().push_back(fmt::format("layer {}", layer));
    }
  }
  if (is_learned) {
    table.front().push_back("factor in it");
  }
  for (const SavedVector& saved : record.vectors) {
    table.push_back({fmt::format("{}", table.size() - 1), fmt::format("{}", saved.epoch + 1),
                     fmt::format("{}", saved.step),
                     fmt::format("{:.4f}", vector_norm(saved.value))});
    for (const double norm : norms_by_layer(saved, run)) {
      table.back().push_back(fmt::format("{:.4f}", norm));
    }
    if (is_learned) {
      table.back().push_back(fmt::format("{:.4f}", saved.factor));
    }
  }
  return table;
}

TextTable held_out_table(const std::vector<EvalRow>& evals) {
  TextTable table = {{"epoch", "steps done", "multiplier", "pairs", "accuracy", "margin", "loss",
                      "chosen logp", "rejected logp"}};
  for (const EvalRow& row : evals) {
    table.push_back({fmt::format("{}", row.epoch + 1), fmt::format("{}", row.step),
                     fmt::format("{:g}", row.multiplier), fmt::format("{:g}", row.pairs),
                     percent(row.accuracy), fmt::format("{:.4f}", row.margin),
                     fmt::format("{:.4f}", row.loss), fmt::format("{:.3f}", row.chosen_logp),
                     fmt::format("{:.3f}", row.rejected_logp)});
  }
  return table;
}

using Json = nlohmann::ordered_json;

Json text_or_null(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

Json step_as_json(const StepRow& row) {
  return {{"step", row.step},     {"epoch", row.epoch + 1},     {"lr", row.lr},
          {"loss", row.loss},     {"margin", row.margin},       {"accuracy", row.accuracy},
          {"sign", row.sign},     {"grad_norm", row.grad_norm}, {"vector_norm", row.vector_norm},
          {"tokens", row.tokens}, {"seconds", row.seconds}};
}

Json vectors_as_json(const RunRecord& record) {
  Json list = Json::array();
  for (const SavedVector& saved : record.vectors) {
    list.push_back({{"row", list.size()},
                    {"epoch", saved.epoch + 1},
                    {"step", saved.step},
                    {"norm", vector_norm(saved.value)}});
    if (!record.attributes.higher_layers.empty()) {
      list.back()["norms"] = norms_by_layer(saved, record.attributes);
    }
    if (record.checkpoint.factor) {
      list.back()["factor"] = saved.factor;
    }
  }
  return list;
}

Json evals_as_json(const std::vector<EvalRow>& evals) {
  Json list = Json::array();
  for (const EvalRow& row : evals) {
    list.push_back({{"epoch", row.epoch + 1},
                    {"step", row.step},
                    {"multiplier", row.multiplier},
                    {"pairs", row.pairs},
                    {"accuracy", row.accuracy},
                    {"margin", row.margin},
                    {"loss", row.loss},
                    {"chosen_logp", row.chosen_logp},
                    {"rejected_logp", row.rejected_logp}});
  }
  return list;
}

// Says why the last row stands there, where it is not that of the last step.
std::string selection_text(const std::vector<SavedVector>& vectors) {
  const std::size_t count = vectors.size();
  return count > 1 && vectors[count - 1].step < vectors[count - 2].step
             ? fmt::format(
                   "  the last row repeats that of epoch {}, which the run selected as its "
                   "result (--select best)\n",
                   vectors.back().epoch + 1)
             : "";
}

// Says which row of `evals` is the best; "" where none can be.
std::string best_epoch_text(const std::vector<EvalRow>& evals) {
  const auto best = best_epoch(evals);
  if (!best) {
    return "";
  }
  return fmt::format(
      "  best epoch: {} of {} evaluated, held-out margin {:+.4f} nats (at +1 less that at -1)\n",
      best->epoch + 1, evaluated_epochs(evals).size(), best->margin);
}

}  // namespace

Json run_as_json(const RunRecord& record) {
  const RunAttributes& run = record.attributes;
  const std::vector<StepRow>& steps = record.steps;
  const Work work = work_of(steps);
  const auto best = best_epoch(record.evals);
  const std::string early = early_end(record);
  Json json = {{"model", run.model}, {"layer", run.layer}};
  if (!run.higher_layers.empty()) {
    json["layers"] = steered_layers(run).blocks();
  }
  if (run.site != Site::kBlock) {
    json["site"] = to_string(run.site);
  }
  const Json others = {
      {"hidden_size", run.hidden_size},
      {"status", to_string(run.status)},
      {"created_utc", run.created_utc},
      {"program_version", run.program_version},
      {"git_commit", run.git_commit},
      {"world_size", run.world_size},
      {"dp", run.dp},
      {"tp", run.tp},
      {"backend", run.backend},
      {"dtype", run.dtype},
      {"hosts", run.hosts},
      {"verdict", text_or_null(run.verdict)},
      {"settings", Json::parse(run.config)},
      {"steps_done", record.checkpoint.step},
      {"steps_logged", steps.size()},
      {"epochs_begun", epochs_begun(steps)},
      {"seconds_in_steps", work.seconds},
      {"tokens_per_second", work.seconds > 0 ? Json(work.tokens / work.seconds) : Json()},
      {"ended_early", text_or_null(early)},
      {"first_step", steps.empty() ? Json() : step_as_json(steps.front())},
      {"last_step", steps.empty() ? Json() : step_as_json(steps.back())},
      {"vectors", vectors_as_json(record)},
      {"evals", evals_as_json(record.evals)},
      {"best_epoch", best ? Json(best->epoch + 1) : Json()},
      {"best_margin", best ? Json(best->margin) : Json()},
      {"evaluated_epochs", evaluated_epochs(record.evals).size()}};
  json.update(others);
  return json;
}

void print_conceptor(std::ostream& out, const ConceptorRecord& record) {
  const ConceptorAttributes& conceptor = record.attributes;
  const double quota = quota_of(record);
  out << "Conceptor\n";
  const Settings settings = {
      {"model", printable(conceptor.model)},
      {"layer", fmt::format("{} (hidden size {})", conceptor.layer, conceptor.hidden_size)},
      {"aperture", aperture_text(conceptor)},
      {"quota",
       fmt::format("{:.4f}, {:.1f} of {} dimensions pass", quota,
                   quota * static_cast<double>(conceptor.hidden_size), conceptor.hidden_size)},
      {"created", printable(conceptor.created_utc)},
      {"program", printable(fmt::format("bipo-dist {} ({})", conceptor.program_version,
                                        conceptor.git_commit))},
      {"ranks",
       fmt::format("{} = dp {} x tp {}", conceptor.world_size, conceptor.dp, conceptor.tp)},
      {"backend", printable(fmt::format("{}, {}", conceptor.backend, conceptor.dtype))},
      {"hosts", printable(conceptor.hosts)}};
  print_settings(out, settings, name_width(settings));
  out << "\nSettings\n";
  print_settings_in_two_columns(out, config_settings(conceptor.config));
}

Json conceptor_as_json(const ConceptorRecord& record) {
  const ConceptorAttributes& conceptor = record.attributes;
  const auto or_null = [](std::optional<double> number) { return number ? Json(*number) : Json(); };
  return {{"kind", "conceptor"},
          {"model", conceptor.model},
          {"layer", conceptor.layer},
          {"hidden_size", conceptor.hidden_size},
          {"aperture", or_null(conceptor.aperture)},
          {"absolute_aperture", or_null(conceptor.absolute_aperture)},
          {"quota", quota_of(record)},
          {"created_utc", conceptor.created_utc},
          {"program_version", conceptor.program_version},
          {"git_commit", conceptor.git_commit},
          {"world_size", conceptor.world_size},
          {"dp", conceptor.dp},
          {"tp", conceptor.tp},
          {"backend", conceptor.backend},
          {"dtype", conceptor.dtype},
          {"hosts", conceptor.hosts},
          {"settings", Json::parse(conceptor.config)}};
}

void print_run(std::ostream& out, const RunRecord& record) {
  out << "Run\n";
  print_run_attributes(out, record.attributes);
  out << "\nSettings\n";
  print_settings_in_two_columns(out, config_settings(record.attributes.config));
  out << "\nProgress\n";
  print_progress(out, record);
  out << "\nFirst and last step (loss and margin in nats)\n";
  print_rows(out, first_and_last_step(record.steps), record.attributes.status);
  out << "\nVectors\n";
  print_rows(out, vector_table(record), record.attributes.status);
  out << selection_text(record.vectors);
  out << "\nHeld-out pairs (margin and loss in nats)\n";
  print_rows(out, held_out_table(record.evals), record.attributes.status);
  out << best_epoch_text(record.evals);
}

}  // namespace bipo
