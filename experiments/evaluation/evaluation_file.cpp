#include "experiments/evaluation/evaluation_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/readable_file.hpp"

namespace bipo {
namespace {

using hdf5::Handle;
using hdf5::ValueColumn;

const char* const kKind = "evaluation";

// The tables that add_judge_scores() leaves alone.
constexpr const char* kMeasuredTables[] = {"curve",   "steerability", "samples",
                                           "choices", "costs",        "grid"};

struct TextAttribute {
  const char* name;
  std::string EvaluationAttributes::*member;
};

constexpr TextAttribute kTextAttributes[] = {
    {"config", &EvaluationAttributes::config},
    {"program_version", &EvaluationAttributes::program_version},
    {"git_commit", &EvaluationAttributes::git_commit},
    {"created_utc", &EvaluationAttributes::created_utc},
    {"model", &EvaluationAttributes::model},
    {"adapter", &EvaluationAttributes::adapter},
    {"backend", &EvaluationAttributes::backend},
    {"dtype", &EvaluationAttributes::dtype},
    {"hosts", &EvaluationAttributes::hosts},
};

struct IntegerAttribute {
  const char* name;
  std::int64_t EvaluationAttributes::*member;
};

constexpr IntegerAttribute kIntegerAttributes[] = {
    {"hidden_size", &EvaluationAttributes::hidden_size},
    {"world_size", &EvaluationAttributes::world_size},
    {"dp", &EvaluationAttributes::dp},
    {"tp", &EvaluationAttributes::tp},
};

// The columns of one table, taken from its rows.
template <typename Row>
class TableColumns {
 public:
  explicit TableColumns(const std::vector<Row>& rows) : rows_(rows) {}

  TableColumns& text(const char* name, const char* meaning, std::string Row::*member) {
    return add<std::string>(name, "text", meaning, [=](const Row& row) { return row.*member; });
  }
  TableColumns& integer(const char* name, const char* unit, const char* meaning,
                        std::int64_t Row::*member) {
    return add<std::int64_t>(name, unit, meaning, [=](const Row& row) { return row.*member; });
  }
  TableColumns& number(const char* name, const char* unit, const char* meaning,
                       double Row::*member) {
    return add<double>(name, unit, meaning, [=](const Row& row) { return row.*member; });
  }
  TableColumns& interval(const std::string& name, const char* unit, const char* meaning,
                         Interval Row::*member) {
    add<double>(name, unit, meaning, [=](const Row& row) { return (row.*member).value; });
    add<double>(name + "_low", unit, "2.5 % quantile of the bootstrap over items",
                [=](const Row& row) { return (row.*member).low; });
    return add<double>(name + "_high", unit, "97.5 % quantile of the bootstrap over items",
                       [=](const Row& row) { return (row.*member).high; });
  }

  template <typename Value, typename Take>
  TableColumns& add(const std::string& name, const char* unit, const char* meaning,
                    const Take& take) {
    std::vector<Value> values;
    for (const Row& row : rows_) {
      values.push_back(take(row));
    }
    columns_.push_back({name, std::move(values)});
    units_[name] = {{"unit", unit}, {"meaning", meaning}};
    return *this;
  }

  void write(const Handle& file, const char* name) const {
    const Handle table = hdf5::write_columns(file, name, columns_, rows_.size());
    hdf5::write_attribute(table, "units", units_.dump());
  }

 private:
  const std::vector<Row>& rows_;
  std::vector<ValueColumn> columns_;
  nlohmann::ordered_json units_;
};

constexpr const char* kDirection = "what was added: vector, caa or random";
constexpr const char* kMultiplier = "factor on the direction";

void write_curve(const Handle& file, const std::vector<CurveRow>& rows) {
  TableColumns(rows)
      .text("direction", kDirection, &CurveRow::direction)
      .number("multiplier", "1", kMultiplier, &CurveRow::multiplier)
      .integer("pairs", "pairs", "held-out pairs", &CurveRow::pairs)
      .interval("accuracy", "share", "pairs whose chosen answer is likelier than the rejected one",
                &CurveRow::accuracy)
      .interval("margin", "nats", "mean of beta*delta", &CurveRow::margin)
      .interval("propensity", "nats", "mean of log p(chosen) - log p(rejected)",
                &CurveRow::propensity)
      .interval("propensity_per_token", "nats per token",
                "mean of log p(chosen) / tokens - log p(rejected) / tokens",
                &CurveRow::propensity_per_token)
      .number("chosen_logp", "nats", "mean log-probability of the chosen answer",
              &CurveRow::chosen_logp)
      .number("rejected_logp", "nats", "mean log-probability of the rejected answer",
              &CurveRow::rejected_logp)
      .write(file, "curve");
}

void write_steerability(const Handle& file, const std::vector<SteerabilityRow>& rows) {
  TableColumns(rows)
      .text("direction", kDirection, &SteerabilityRow::direction)
      .number("norm", "hidden units", "Euclidean norm of what multiplier 1 adds, over all layers",
              &SteerabilityRow::norm)
      .integer("pairs", "pairs", "held-out pairs", &SteerabilityRow::pairs)
      .interval("steerability", "nats", "mean per-sample slope of propensity over the multipliers",
                &SteerabilityRow::steerability)
      .number("steerability_sd", "nats", "standard deviation of the slopes, n - 1",
              &SteerabilityRow::steerability_sd)
      .interval("anti_steerable", "share", "pairs with a slope below 0",
                &SteerabilityRow::anti_steerable)
      .interval("spearman", "1", "mean per-sample rank correlation of multiplier and propensity",
                &SteerabilityRow::spearman)
      .write(file, "steerability");
}

void write_samples(const Handle& file, const std::vector<SampleRow>& rows) {
  TableColumns(rows)
      .text("direction", kDirection, &SampleRow::direction)
      .integer("pair", "1", "held-out pair, from 0", &SampleRow::pair)
      .number("multiplier", "1", kMultiplier, &SampleRow::multiplier)
      .number("chosen_logp", "nats", "log-probability of the chosen answer",
              &SampleRow::chosen_logp)
      .number("rejected_logp", "nats", "log-probability of the rejected answer",
              &SampleRow::rejected_logp)
      .integer("chosen_tokens", "tokens", "of the chosen answer", &SampleRow::chosen_tokens)
      .integer("rejected_tokens", "tokens", "of the rejected answer", &SampleRow::rejected_tokens)
      .number("slope", "nats", "the pair's slope of propensity over all multipliers",
              &SampleRow::slope)
      .write(file, "samples");
}

void write_choices(const Handle& file, const std::vector<ChoiceRow>& rows) {
  TableColumns(rows)
      .text("set", "file or directory of the items", &ChoiceRow::set)
      .text("kind", "ab, mc or mmlu", &ChoiceRow::kind)
      .text("direction", kDirection, &ChoiceRow::direction)
      .number("multiplier", "1", kMultiplier, &ChoiceRow::multiplier)
      .integer("items", "items", "questions", &ChoiceRow::items)
      .interval(
          "accuracy", "share",
          "items with the matching option likelier (ab), MC1 (mc), the right letter likeliest "
          "(mmlu, over items)",
          &ChoiceRow::accuracy)
      .interval("probability", "share",
                "mean p+ / (p+ + p-) (ab), MC2 (mc), mean share of the right letter (mmlu)",
                &ChoiceRow::probability)
      .number("macro_accuracy", "share", "mean over subjects of their accuracies (mmlu)",
              &ChoiceRow::macro_accuracy)
      .write(file, "choices");
}

void write_costs(const Handle& file, const std::vector<CostRow>& rows) {
  TableColumns(rows)
      .text("measure",
            "perplexity_reference_text: of the text under the steered model; "
            "perplexity_of_generations: of steered text, without EOS, under the unsteered model; "
            "kl_neutral: mean over token positions of KL(p_0 || p_m), nats; distinct_1 to 3, "
            "compression_ratio and "
            "refusal_rate: of generations",
            &CostRow::measure)
      .text("direction", kDirection, &CostRow::direction)
      .number("multiplier", "1", kMultiplier, &CostRow::multiplier)
      .interval("value", "of the measure", "over the items", &CostRow::value)
      .integer("items", "items", "pieces of text, prompts or generations", &CostRow::items)
      .write(file, "costs");
}

void write_grid(const Handle& file, const std::vector<GridRow>& rows) {
  TableColumns(rows)
      .number("multiplier_1", "1", "factor on the first vector", &GridRow::multiplier_1)
      .number("multiplier_2", "1", "factor on the second vector", &GridRow::multiplier_2)
      .integer("pairs", "pairs", "held-out pairs", &GridRow::pairs)
      .interval("accuracy", "share", "pairs whose chosen answer is likelier than the rejected one",
                &GridRow::accuracy)
      .number("margin", "nats", "mean of beta*delta", &GridRow::margin)
      .interval("propensity", "nats", "mean of log p(chosen) - log p(rejected)",
                &GridRow::propensity)
      .write(file, "grid");
}

void write_judge(const Handle& file, const std::vector<JudgeSummary>& rows,
                 const std::vector<JudgeScore>& scores) {
  TableColumns(rows)
      .text("behaviour", "what the judge scored", &JudgeSummary::behaviour)
      .number("multiplier", "1", "factor on the vectors", &JudgeSummary::multiplier)
      .integer("items", "answers", "answers judged, errors included", &JudgeSummary::items)
      .integer("errors", "answers", "answers without a score", &JudgeSummary::errors)
      .interval("score", "1 to 4", "mean over the answers with a score", &JudgeSummary::score)
      .write(file, "judge");
  TableColumns<JudgeScore>(scores)
      .add<std::string>("behaviour", "text", "what the judge scored",
                        [](const JudgeScore& row) { return row.id.behaviour; })
      .add<std::int64_t>("prompt", "1", "index of the prompt, from 0",
                         [](const JudgeScore& row) { return row.id.prompt_index; })
      .add<double>("multiplier", "1", "factor on the vectors",
                   [](const JudgeScore& row) { return row.id.multiplier; })
      .add<std::int64_t>("score", "1 to 4", "0: no score",
                         [](const JudgeScore& row) { return std::int64_t{row.score}; })
      .write(file, "judge_scores");
}

void write_attributes(const Handle& file, const EvaluationAttributes& attributes) {
  hdf5::write_attribute(file, "schema_version", kEvaluationSchema);
  hdf5::write_attribute(file, "kind", std::string(kKind));
  for (const IntegerAttribute& attribute : kIntegerAttributes) {
    hdf5::write_attribute(file, attribute.name, attributes.*attribute.member);
  }
  for (const TextAttribute& attribute : kTextAttributes) {
    hdf5::write_attribute(file, attribute.name, attributes.*attribute.member);
  }
}

EvaluationAttributes read_attributes(const Handle& file) {
  const std::string kind = hdf5::read_text_attribute(file, "kind");
  if (kind != kKind) {
    throw UserError(fmt::format("its kind is '{}', not {}", kind, kKind));
  }
  const std::int64_t schema = hdf5::read_integer_attribute(file, "schema_version");
  if (schema < 1 || schema > kEvaluationSchema) {
    throw UserError(fmt::format("its schema_version is {}, and this program reads 1 to {}", schema,
                                kEvaluationSchema));
  }
  EvaluationAttributes attributes;
  for (const IntegerAttribute& attribute : kIntegerAttributes) {
    attributes.*attribute.member = hdf5::read_integer_attribute(file, attribute.name);
  }
  for (const TextAttribute& attribute : kTextAttributes) {
    attributes.*attribute.member = hdf5::read_text_attribute(file, attribute.name);
  }
  return attributes;
}

// The values of column `name`.
template <typename T>
std::vector<T> column(const std::vector<ValueColumn>& columns, const std::string& name) {
  for (const ValueColumn& candidate : columns) {
    if (candidate.name == name) {
      if (const auto* values = std::get_if<std::vector<T>>(&candidate.values)) {
        return *values;
      }
      throw UserError(fmt::format("column '{}' of 'judge_scores' has another type", name));
    }
  }
  throw UserError(fmt::format("column '{}' of 'judge_scores' is missing", name));
}

std::vector<JudgeScore> read_judge_scores(const Handle& file) {
  const std::vector<ValueColumn> columns = hdf5::read_columns(file, "judge_scores");
  const auto behaviours = column<std::string>(columns, "behaviour");
  const auto prompts = column<std::int64_t>(columns, "prompt");
  const auto multipliers = column<double>(columns, "multiplier");
  const auto scores = column<std::int64_t>(columns, "score");
  std::vector<JudgeScore> rows;
  for (std::size_t i = 0; i < behaviours.size(); ++i) {
    rows.push_back({{behaviours[i], prompts[i], multipliers[i]}, static_cast<int>(scores[i])});
  }
  return rows;
}

std::string with_import(const std::string& config, const JudgeImport& import) {
  using Json = nlohmann::ordered_json;
  Json settings = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!settings.is_object()) {
    throw UserError("its config is not a JSON object");
  }
  settings["judge_import"] = import.results;
  settings["judge_seed"] = import.seed;
  return settings.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// What `read` takes from the file.  Throws UserError, naming the file and what to do.
template <typename Read>
auto read_evaluation(const std::filesystem::path& path, Read read) {
  require_readable_file(path, "an evaluation file", "evaluate");
  const hdf5::ErrorPrintingOff quiet;
  try {
    return read(hdf5::open_file(path.string()));
  } catch (const UserError& error) {
    throw UserError(
        fmt::format("{}: not an evaluation file of bipo-dist, or not one this program can read: {}",
                    path.string(), error.what()));
  } catch (const EnvironmentError& error) {
    throw UserError(
        fmt::format("{}: damaged, or not an HDF5 file: {}", path.string(), error.what()));
  }
}

}  // namespace

void write_evaluation_file(const std::filesystem::path& path, const Evaluation& evaluation) {
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  write_attributes(file, evaluation.attributes);
  write_curve(file, evaluation.curve);
  write_steerability(file, evaluation.steerability);
  write_samples(file, evaluation.samples);
  write_choices(file, evaluation.choices);
  write_costs(file, evaluation.costs);
  write_grid(file, evaluation.grid);
  write_judge(file, evaluation.judge, evaluation.judge_scores);
  replace_file(path, hdf5::file_image(file));
}

std::vector<JudgeSummary> add_judge_scores(const std::filesystem::path& path,
                                           const std::vector<JudgeScore>& scores,
                                           const JudgeImport& import) {
  std::set<std::string> replaced;
  for (const JudgeScore& score : scores) {
    replaced.insert(score.id.behaviour);
  }
  std::vector<JudgeSummary> summary;
  const std::vector<std::byte> image = read_evaluation(path, [&](const Handle& old) {
    EvaluationAttributes attributes = read_attributes(old);
    attributes.config = with_import(attributes.config, import);
    std::vector<JudgeScore> all = read_judge_scores(old);
    std::erase_if(all, [&](const JudgeScore& row) { return replaced.contains(row.id.behaviour); });
    all.insert(all.end(), scores.begin(), scores.end());
    std::sort(all.begin(), all.end(), [](const JudgeScore& a, const JudgeScore& b) {
      return std::tie(a.id.behaviour, a.id.prompt_index, a.id.multiplier) <
             std::tie(b.id.behaviour, b.id.prompt_index, b.id.multiplier);
    });
    summary = summarize_judge(all, import.seed);
    const Handle file = hdf5::create_memory_file();
    write_attributes(file, attributes);
    for (const char* table : kMeasuredTables) {
      hdf5::copy_object(old, table, file);
    }
    write_judge(file, summary, all);
    return hdf5::file_image(file);
  });
  replace_file(path, image);
  return summary;
}

void check_evaluation_file(const std::filesystem::path& path) {
  read_evaluation(path, [](const Handle& file) {
    read_attributes(file);
    return read_judge_scores(file).size();
  });
}

}  // namespace bipo
