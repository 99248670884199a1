#include "experiments/evaluation/evaluation_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/hdf5_additions.hpp"

namespace bipo {
namespace {

using hdf5::Handle;

constexpr hdf5::FileKind kEvaluationFile = {"an evaluation file", "evaluate", "evaluation",
                                            kEvaluationSchema,    "",         ""};

// The tables that add_judge_scores() leaves unchanged.
constexpr const char* kMeasuredTables[] = {"curve",   "steerability", "samples",
                                           "choices", "costs",        "grid"};
// The same of those that files of schema 1 lack.
constexpr const char* kNewerTables[] = {"chosen", "choosing_pairs", "choice_items", "grid_samples"};

constexpr hdf5::Attribute<EvaluationAttributes> kEvaluationAttributes[] = {
    {"adapter", &EvaluationAttributes::adapter}};

constexpr const char* kLow = "2.5 % quantile of the bootstrap over items";
constexpr const char* kHigh = "97.5 % quantile of the bootstrap over items";
constexpr hdf5::Part<Interval> kInterval[] = {
    {"", &Interval::value}, {"_low", &Interval::low, kLow}, {"_high", &Interval::high, kHigh}};

// Meanings of columns that several tables have.
constexpr const char* kDirection = "what was added: vector, caa, random, random-2 and so on";
constexpr const char* kMultiplier = "factor on the direction";

constexpr const char* kAccuracy = "pairs whose chosen answer is likelier than the rejected one";
constexpr const char* kMargin = "mean of beta*delta";
constexpr const char* kPropensity = "mean of log p(chosen) - log p(rejected)";
constexpr const char* kBehaviour = "what the judge scored";
constexpr const char* kVectorMultiplier = "factor on the vectors";

hdf5::Table<CurveRow> curve_table() {
  using Row = CurveRow;
  return hdf5::Table<Row>("curve")
      .column("direction", "text", kDirection, &Row::direction)
      .column("multiplier", "1", kMultiplier, &Row::multiplier)
      .column("pairs", "pairs", "held-out pairs", &Row::pairs)
      .parts<Interval>("accuracy", "share", kAccuracy, &Row::accuracy, kInterval)
      .parts<Interval>("margin", "nats", kMargin, &Row::margin, kInterval)
      .parts<Interval>("propensity", "nats", kPropensity, &Row::propensity, kInterval)
      .parts<Interval>("propensity_per_token", "nats per token",
                       "mean of log p(chosen) / tokens - log p(rejected) / tokens",
                       &Row::propensity_per_token, kInterval)
      .column("chosen_logp", "nats", "mean log-probability of the chosen answer", &Row::chosen_logp)
      .column("rejected_logp", "nats", "mean log-probability of the rejected answer",
              &Row::rejected_logp);
}

hdf5::Table<SteerabilityRow> steerability_table() {
  using Row = SteerabilityRow;
  return hdf5::Table<Row>("steerability")
      .column("direction", "text", kDirection, &Row::direction)
      .column("norm", "hidden units", "Euclidean norm of what multiplier 1 adds, over all layers",
              &Row::norm)
      .column("pairs", "pairs", "held-out pairs", &Row::pairs)
      .parts<Interval>("steerability", "nats",
                       "mean per-sample slope of propensity over the multipliers",
                       &Row::steerability, kInterval)
      .column("steerability_sd", "nats", "standard deviation of the slopes, n - 1",
              &Row::steerability_sd)
      .parts<Interval>("anti_steerable", "share", "pairs with a slope below 0",
                       &Row::anti_steerable, kInterval)
      .parts<Interval>("spearman", "1",
                       "mean per-sample rank correlation of multiplier and propensity",
                       &Row::spearman, kInterval);
}

hdf5::Table<SampleRow> sample_table() {
  using Row = SampleRow;
  return hdf5::Table<Row>("samples")
      .column("direction", "text", kDirection, &Row::direction)
      .column("pair", "1", "held-out pair, from 0", &Row::pair)
      .column("multiplier", "1", kMultiplier, &Row::multiplier)
      .column("chosen_logp", "nats", "log-probability of the chosen answer", &Row::chosen_logp)
      .column("rejected_logp", "nats", "log-probability of the rejected answer",
              &Row::rejected_logp)
      .column("chosen_tokens", "tokens", "of the chosen answer", &Row::chosen_tokens)
      .column("rejected_tokens", "tokens", "of the rejected answer", &Row::rejected_tokens)
      .column("slope", "nats", "the pair's slope of propensity over all multipliers", &Row::slope);
}

hdf5::Table<ChoiceRow> choice_table() {
  using Row = ChoiceRow;
  return hdf5::Table<Row>("choices")
      .column("set", "text", "file or directory of the items", &Row::set)
      .column("kind", "text", "ab, mc or mmlu", &Row::kind)
      .column("direction", "text", kDirection, &Row::direction)
      .column("multiplier", "1", kMultiplier, &Row::multiplier)
      .column("items", "items", "questions", &Row::items)
      .parts<Interval>(
          "accuracy", "share",
          "items with the matching option likelier (ab), MC1 (mc), the right letter likeliest "
          "(mmlu, over items)",
          &Row::accuracy, kInterval)
      .parts<Interval>("probability", "share",
                       "mean p+ / (p+ + p-) (ab), MC2 (mc), mean share of the right letter (mmlu)",
                       &Row::probability, kInterval)
      .column("macro_accuracy", "share", "mean over subjects of their accuracies (mmlu)",
              &Row::macro_accuracy);
}

hdf5::Table<ChoiceItemRow> choice_item_table() {
  using Row = ChoiceItemRow;
  return hdf5::Table<Row>("choice_items")
      .column("set", "text", "file or directory of the items", &Row::set)
      .column("kind", "text", "ab, mc or mmlu", &Row::kind)
      .column("direction", "text", kDirection, &Row::direction)
      .column("multiplier", "1", kMultiplier, &Row::multiplier)
      .column("item", "1", "question of the set, from 0", &Row::item)
      .column("correct", "1", "1: counts in accuracy", &Row::correct)
      .column("probability", "share", "as in choices, of this question", &Row::probability);
}

hdf5::Table<ChosenRow> chosen_table() {
  using Row = ChosenRow;
  return hdf5::Table<Row>("chosen")
      .column("direction", "text", kDirection, &Row::direction)
      .column("aim", "1", "1: the highest propensity, -1: the lowest", &Row::aim)
      .column("multiplier", "1", "the chosen one", &Row::multiplier)
      .column("choosing_pairs", "pairs", "pairs that chose it", &Row::choosing_pairs)
      .column("chosen_on", "nats", "mean change of propensity from 0 over those pairs",
              &Row::chosen_on)
      .column("pairs", "pairs", "the others, which the following columns are of", &Row::pairs)
      .parts<Interval>("propensity", "nats", "mean change of propensity from 0, pair by pair",
                       &Row::propensity, kInterval)
      .parts<Interval>("accuracy", "share", "mean change of accuracy from 0, pair by pair",
                       &Row::accuracy, kInterval);
}

hdf5::Table<ChoosingPairRow> choosing_pair_table() {
  using Row = ChoosingPairRow;
  return hdf5::Table<Row>("choosing_pairs")
      .column("pair", "1", "held-out pair, from 0", &Row::pair)
      .column("chooses", "1", "1: chooses multipliers; 0: reports them", &Row::chooses);
}

hdf5::Table<CostRow> cost_table() {
  using Row = CostRow;
  return hdf5::Table<Row>("costs")
      .column("measure", "text",
              "perplexity_reference_text: of the text under the steered model; "
              "perplexity_of_generations: of steered text, without EOS, under the unsteered model; "
              "kl_neutral: mean over token positions of KL(p_0 || p_m), nats; distinct_1 to 3, "
              "compression_ratio and refusal_rate: of generations",
              &Row::measure)
      .column("direction", "text", kDirection, &Row::direction)
      .column("multiplier", "1", kMultiplier, &Row::multiplier)
      .parts<Interval>("value", "of the measure", "over the items", &Row::value, kInterval)
      .column("items", "items", "pieces of text, prompts or generations", &Row::items);
}

hdf5::Table<GridSampleRow> grid_sample_table() {
  using Row = GridSampleRow;
  return hdf5::Table<Row>("grid_samples")
      .column("multiplier_1", "1", "factor on the first vector", &Row::multiplier_1)
      .column("multiplier_2", "1", "factor on the second vector", &Row::multiplier_2)
      .column("pair", "1", "held-out pair, from 0", &Row::pair)
      .column("chosen_logp", "nats", "log-probability of the chosen answer", &Row::chosen_logp)
      .column("rejected_logp", "nats", "log-probability of the rejected answer",
              &Row::rejected_logp);
}

hdf5::Table<GridRow> grid_table() {
  using Row = GridRow;
  return hdf5::Table<Row>("grid")
      .column("multiplier_1", "1", "factor on the first vector", &Row::multiplier_1)
      .column("multiplier_2", "1", "factor on the second vector", &Row::multiplier_2)
      .column("pairs", "pairs", "held-out pairs", &Row::pairs)
      .parts<Interval>("accuracy", "share", kAccuracy, &Row::accuracy, kInterval)
      .column("margin", "nats", kMargin, &Row::margin)
      .parts<Interval>("propensity", "nats", kPropensity, &Row::propensity, kInterval);
}

// `scale`, the unit of the scores ("1 to 4"), must outlive the table.
hdf5::Table<JudgeSummary> judge_table(const std::string& scale) {
  using Row = JudgeSummary;
  return hdf5::Table<Row>("judge")
      .column("behaviour", "text", kBehaviour, &Row::behaviour)
      .column("multiplier", "1", kVectorMultiplier, &Row::multiplier)
      .column("items", "answers", "answers judged, errors included", &Row::items)
      .column("errors", "answers", "answers without a score", &Row::errors)
      .parts<Interval>("score", scale.c_str(), "mean over the answers with a score", &Row::score,
                       kInterval);
}

// A score of schema 1.
struct WholeScore {
  JudgeId id;
  std::int64_t score = 0;  // 0: none
};

template <typename Row>
hdf5::Table<Row> judged_table() {
  return hdf5::Table<Row>("judge_scores")
      .column("behaviour", "text", kBehaviour, &Row::id, &JudgeId::behaviour)
      .column("prompt", "1", "index of the prompt, from 0", &Row::id, &JudgeId::prompt_index)
      .column("multiplier", "1", kVectorMultiplier, &Row::id, &JudgeId::multiplier);
}

hdf5::Table<JudgeScore> judge_score_table(const std::string& scale) {
  return judged_table<JudgeScore>()
      .column("score", scale.c_str(), "NaN: none", &JudgeScore::score)
      .column("answer", "text", "what came in place of a score, its beginning",
              &JudgeScore::answer);
}

std::vector<JudgeScore> read_judge_scores(const Handle& file) {
  if (hdf5::read_integer_attribute(file, "schema_version") > 1) {
    return judge_score_table("").read(file);
  }
  std::vector<JudgeScore> scores;
  for (const WholeScore& row :
       judged_table<WholeScore>().column("score", "1", "", &WholeScore::score).read(file)) {
    JudgeScore& score = scores.emplace_back(JudgeScore{row.id});
    if (row.score != 0) {
      score.score = static_cast<double>(row.score);
    }
  }
  return scores;
}

void write_judge_tables(const Handle& file, const std::vector<JudgeSummary>& summary,
                        const std::vector<JudgeScore>& scores, const JudgeScale& scale) {
  const std::string unit = scale.words();
  judge_table(unit).write(file, summary);
  judge_score_table(unit).write(file, scores);
}

void write_attributes(const Handle& file, const EvaluationAttributes& attributes) {
  hdf5::write_identity(file, kEvaluationFile);
  hdf5::write_attributes<JobAttributes>(file, kJobAttributes, attributes);
  hdf5::write_attributes<EvaluationAttributes>(file, kEvaluationAttributes, attributes);
  hdf5::write_attributes_checksum(file);
}

EvaluationAttributes read_attributes(const Handle& file) {
  EvaluationAttributes attributes;
  hdf5::read_attributes<JobAttributes>(file, kJobAttributes, attributes);
  hdf5::read_attributes<EvaluationAttributes>(file, kEvaluationAttributes, attributes);
  return attributes;
}

using OrderedJson = nlohmann::ordered_json;

OrderedJson parse_config(const std::string& config) {
  return OrderedJson::parse(config, nullptr, /*allow_exceptions=*/false);
}

// What add_judge_scores() takes from the old file.
struct OldEvaluation {
  EvaluationAttributes attributes;
  std::vector<JudgeScore> scores;
  JudgeScale scale;  // of those scores
  Handle rest;       // a file in memory: the measured tables, and what other programs added
};

OldEvaluation read_old(const Handle& file) {
  OldEvaluation old{read_attributes(file), read_judge_scores(file), {}, hdf5::create_memory_file()};
  const OrderedJson config = parse_config(old.attributes.config);
  if (!config.is_object()) {
    throw UserError("its config is not a JSON object");
  }
  if (const auto scale = config.find("judge_scale"); scale != config.end()) {
    if (!scale->is_string()) {
      throw UserError("the setting judge_scale in its config is not a text");
    }
    old.scale = parse_judge_scale(scale->get<std::string>());
  }
  for (const char* table : kMeasuredTables) {
    hdf5::check_dataset(file, table);
  }
  for (const char* table : kNewerTables) {
    if (hdf5::has_link(file, table)) {
      hdf5::check_dataset(file, table);
    }
  }
  const Handle replaced = hdf5::create_memory_file();
  write_attributes(replaced, old.attributes);
  write_judge_tables(replaced, {}, {}, old.scale);
  hdf5::copy_additions(file, replaced, old.rest);
  return old;
}

const hdf5::Reading<OldEvaluation> kOldEvaluation("evaluation", kEvaluationFile, read_old);

std::string with_import(const std::string& config, const JudgeImport& import) {
  OrderedJson settings = parse_config(config);
  settings["judge_import"] = import.results;
  settings["judge_seed"] = import.seed;
  settings["judge_scale"] = import.scale.text;
  return settings.dump(-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

}  // namespace

void write_evaluation_file(const std::filesystem::path& path, const Evaluation& evaluation) {
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  write_attributes(file, evaluation.attributes);
  curve_table().write(file, evaluation.curve);
  steerability_table().write(file, evaluation.steerability);
  sample_table().write(file, evaluation.samples);
  chosen_table().write(file, evaluation.chosen);
  choosing_pair_table().write(file, evaluation.choosing_pairs);
  choice_table().write(file, evaluation.choices);
  choice_item_table().write(file, evaluation.choice_items);
  cost_table().write(file, evaluation.costs);
  grid_table().write(file, evaluation.grid);
  grid_sample_table().write(file, evaluation.grid_samples);
  write_judge_tables(file, evaluation.judge, evaluation.judge_scores, evaluation.judge_scale);
  replace_file(path, hdf5::sealed_image(file));
}

nlohmann::ordered_json evaluation_as_json(const Evaluation& evaluation) {
  return {{"curve", curve_table().as_json(evaluation.curve)},
          {"steerability", steerability_table().as_json(evaluation.steerability)},
          {"chosen", chosen_table().as_json(evaluation.chosen)},
          {"choices", choice_table().as_json(evaluation.choices)},
          {"costs", cost_table().as_json(evaluation.costs)},
          {"grid", grid_table().as_json(evaluation.grid)},
          {"judge", judge_as_json(evaluation.judge)}};
}

nlohmann::ordered_json judge_as_json(const std::vector<JudgeSummary>& rows) {
  return judge_table("").as_json(rows);  // JSON has no units
}

std::vector<JudgeSummary> add_judge_scores(const std::filesystem::path& path,
                                           const std::vector<JudgeScore>& scores,
                                           const JudgeImport& import) {
  std::set<std::string> replaced;
  for (const JudgeScore& score : scores) {
    replaced.insert(score.id.behaviour);
  }
  const hdf5::ErrorPrintingOff quiet;
  OldEvaluation old = kOldEvaluation.from(path);
  old.attributes.config = with_import(old.attributes.config, import);
  std::vector<JudgeScore>& all = old.scores;
  std::erase_if(all, [&](const JudgeScore& row) { return replaced.contains(row.id.behaviour); });
  if (!all.empty() && !(old.scale == import.scale)) {
    throw UserError(fmt::format(
        "{}: its scores of '{}' are on the scale {}, and those to add on {}; a file holds scores "
        "of one scale: give --judge-scale {}, or another --out",
        path.string(), all.front().id.behaviour, old.scale.text, import.scale.text,
        old.scale.text));
  }
  all.insert(all.end(), scores.begin(), scores.end());
  std::sort(all.begin(), all.end(), [](const JudgeScore& a, const JudgeScore& b) {
    return std::tie(a.id.behaviour, a.id.prompt_index, a.id.multiplier) <
           std::tie(b.id.behaviour, b.id.prompt_index, b.id.multiplier);
  });
  const std::vector<JudgeSummary> summary = summarize_judge(all, import.seed);
  const Handle file = hdf5::create_memory_file();
  write_attributes(file, old.attributes);
  write_judge_tables(file, summary, all, import.scale);
  hdf5::copy_additions(old.rest, file, file);
  replace_file(path, hdf5::sealed_image(file));
  return summary;
}

void check_evaluation_file(const std::filesystem::path& path) {
  const hdf5::ErrorPrintingOff quiet;
  kOldEvaluation.from(path);
}

}  // namespace bipo
