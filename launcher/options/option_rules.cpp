#include "launcher/options/option_rules.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// `has_pairs`: held-out ones, in every data set.
void require_held_out_margin(const TrainingOptions& options, bool has_pairs,
                             const std::string& option) {
  const auto& multipliers = options.multipliers;
  if (!has_pairs) {
    throw UserError(
        fmt::format("{} needs --test: epochs are compared by the margin of its pairs", option));
  }
  if (options.eval_every == 0) {
    throw UserError(fmt::format(
        "{} needs evaluations, and --eval-every 0 makes none; give 1 or above", option));
  }
  if (std::count(multipliers.begin(), multipliers.end(), -1) == 0 ||
      std::count(multipliers.begin(), multipliers.end(), 1) == 0) {
    throw UserError(fmt::format(
        "{} needs -1 and 1 among the --multipliers: epochs are compared by the held-out margin at "
        "+1 less that at -1",
        option));
  }
}

void require_part_of_batch(const std::optional<std::int64_t>& micro_batch,
                           std::int64_t batch_size) {
  if (micro_batch && *micro_batch > batch_size) {
    throw UserError(
        fmt::format("--micro-batch {} is larger than --batch-size {}; a micro-batch is a part of "
                    "a batch, give at most {}",
                    *micro_batch, batch_size, batch_size));
  }
}

void require_one_warmup(const GivenNames& given) {
  if (given.contains("warmup") && given.contains("warmup-steps")) {
    throw UserError(
        "--warmup and --warmup-steps exclude each other: both say how long the warm-up is");
  }
}

// `option`: with its ending for a sweep.
void require_sigmoid(ObjectiveKind objective, double label_smoothing, const char* option) {
  if (label_smoothing != 0 && !has_sigmoid(objective)) {
    throw UserError(
        fmt::format("{} {} needs an objective with a log sigmoid (bipo, dpo, simpo, reps): the "
                    "loss of {} has none to smooth labels in; leave it out",
                    option, label_smoothing, to_string(objective)));
  }
}

[[noreturn]] void refuse_directions(const char* option) {
  throw UserError(fmt::format(
      "{}: --objective dpo trains in one direction, plus; in both of them it is --objective bipo",
      option));
}

void require_factors(ObjectiveKind objective, const GivenNames& given) {
  if (projects_out(objective) && !given.contains("factors")) {
    throw UserError(fmt::format(
        "--objective {} needs --factors, the strengths at which its vector is added (the paper "
        "draws from 2,4,6,8,10,12,14,16,18,20), or --factors learned: what is projected out "
        "depends on the vector's direction alone, so that its strength is a choice of its own",
        to_string(objective)));
  }
}

[[noreturn]] void refuse_signs_of_reps(const char* option) {
  throw UserError(fmt::format(
      "{}: --objective reps adds the vector and projects it out in every step, which is both; "
      "leave it out",
      option));
}

void require_learned_factor(bool has_learned, const GivenNames& given) {
  for (const char* name : {"factor-lr", "factor-init"}) {
    if (given.contains(name) && !has_learned) {
      throw UserError(fmt::format(
          "--{} belongs to --factors learned; leave it out, or learn the factor", name));
    }
  }
}

// The values that some of a sweep's objectives do not use must serve another of them.
void require_objectives(const SweepAxes& axes, const GivenNames& given) {
  const auto has = [&](const char* name) {
    return std::count(axes.objectives.begin(), axes.objectives.end(), name) > 0;
  };
  for (const std::string& name : axes.objectives) {
    for (const double smoothing : axes.label_smoothings) {
      require_sigmoid(parse_objective(name), smoothing, "--label-smoothings");
    }
    require_factors(parse_objective(name), given);
  }
  if (given.contains("simpo-gammas") && !has("simpo")) {
    throw UserError("--simpo-gammas belongs to simpo, which is not among the --objectives");
  }
  if (given.contains("signs") && has("dpo") &&
      std::count(axes.signs.begin(), axes.signs.end(), "plus") == 0) {
    refuse_directions("--signs");
  }
  if (given.contains("signs") && has("reps") && axes.objectives.size() == 1 &&
      std::count(axes.signs.begin(), axes.signs.end(), "both") == 0) {
    refuse_signs_of_reps("--signs");
  }
}

// Checks the model and pairs of bench and plan.
void require_one_model_and_pairs(const WorkloadOptions& options, const GivenNames& given) {
  if (given.contains("model") == given.contains("shape")) {
    throw UserError("give one of --model (a model directory) and --shape (a name or config.json)");
  }
  if (given.contains("train")) {
    if (!given.contains("model")) {
      throw UserError(
          "--train needs --model, whose tokenizer reads it; with --shape give --prompt-length and "
          "--answer-length");
    }
    for (const char* length : {"prompt-length", "answer-length", "common-prefix"}) {
      if (given.contains(length)) {
        throw UserError(fmt::format(
            "--{} and --train exclude each other: the file's pairs have lengths of their own",
            length));
      }
    }
  }
  if (options.lengths.common_prefix > options.lengths.prompt_length) {
    throw UserError(fmt::format("--common-prefix {} is longer than --prompt-length {}",
                                options.lengths.common_prefix, options.lengths.prompt_length));
  }
  require_part_of_batch(options.micro_batch, options.batch_size);
}

// Checks the forms of evaluate that need no model.
void require_judge_files(const EvaluateOptions& options, const GivenNames& given) {
  if (!given.contains("judge-export") && !given.contains("judge-import")) {
    throw UserError(
        "evaluate needs --model; without one it writes or reads a judge's files only, by "
        "--judge-export or --judge-import");
  }
  GivenNames used;
  if (given.contains("judge-export")) {
    used.insert({"judge-export", "generations", "rubric", "behaviour", "judge-model", "judge-scale",
                 "test", "choices-ab", "skip-bad", "overwrite", "json"});
  }
  if (given.contains("judge-import")) {
    used.insert({"judge-import", "judge-scale", "out", "generations", "behaviour", "seed", "json"});
  }
  for (const std::string& name : given) {
    if (name != "config" && !used.contains(name)) {
      throw UserError(fmt::format(
          "--{} has no use here: without --model evaluate only writes or reads a judge's files, "
          "and takes --{}",
          name, fmt::join(used, ", --")));
    }
  }
  if (given.contains("judge-import") && options.out.empty()) {
    throw UserError("--judge-import needs --out, the evaluation file that takes the scores");
  }
  if (!given.contains("judge-export") &&
      given.contains("generations") != given.contains("behaviour")) {
    throw UserError(
        "--generations and --behaviour go together: they determine which lines --judge-import "
        "expects");
  }
}

void require_measurement(const EvaluateOptions& options, const GivenNames& given) {
  if (options.vectors.empty() || options.out.empty()) {
    throw UserError("evaluate with --model needs --vector and --out");
  }
  const std::vector<std::string> measures = {"test",       "choices-ab",     "choices-mc",
                                             "mmlu",       "reference-text", "neutral-prompts",
                                             "generations"};
  if (std::none_of(measures.begin(), measures.end(),
                   [&](const std::string& name) { return given.contains(name); })) {
    throw UserError(fmt::format("there is nothing to measure: give at least one of --{}",
                                fmt::join(measures, ", --")));
  }
  if (options.multipliers.size() < 2) {
    throw UserError(
        "--multipliers: a propensity curve and its slope need at least two different ones");
  }
  if (given.contains("grid") && !given.contains("test")) {
    throw UserError("--grid needs --test, the pairs that it is measured on");
  }
  if (given.contains("grid") && options.vectors.size() != 2) {
    throw UserError(
        fmt::format("--grid needs exactly two vectors, one for each axis, but --vector names {}",
                    options.vectors.size()));
  }
  if (given.contains("neutral-prompts") && options.positions &&
      !options.positions->steers_prompts()) {
    throw UserError(
        "--neutral-prompts and --positions answer exclude each other: prompts without answers are "
        "not steered then");
  }
  if (given.contains("mmlu") && options.positions && !options.positions->steers_prompts()) {
    throw UserError(
        "--mmlu and --positions answer exclude each other: answers of one letter are predicted "
        "where the prompt ends, which is not steered then");
  }
  if (given.contains("random") && given.contains("random-control") &&
      options.random_control != (options.random > 0)) {
    throw UserError(
        "--random and --random-control contradict each other: one asks for random directions, the "
        "other for none; give one");
  }
  for (const char* name : {"random", "choose-on"}) {
    const bool needs_pairs = name == std::string("choose-on") || options.random > 1;
    if (given.contains(name) && needs_pairs && !given.contains("test")) {
      throw UserError(fmt::format("--{} needs --test, the pairs that it is measured on", name));
    }
  }
  for (const char* name : {"behaviour", "judge-scale"}) {
    if (given.contains(name) && !given.contains("judge-export") &&
        !given.contains("judge-import")) {
      throw UserError(fmt::format(
          "--{} needs --judge-export or --judge-import, whose files it belongs to", name));
    }
  }
  if (given.contains("behaviour") && !given.contains("generations")) {
    throw UserError("--behaviour needs --generations, the answers to judge");
  }
}

}  // namespace

void require_consistent(const TrainOptions& options, const GivenNames& given) {
  require_one_warmup(given);
  require_sigmoid(options.objective, options.label_smoothing, "--label-smoothing");
  if (given.contains("simpo-gamma") && options.objective != ObjectiveKind::kSimpo) {
    throw UserError(fmt::format(
        "--simpo-gamma belongs to --objective simpo: {} has no such margin; leave it out",
        to_string(options.objective)));
  }
  if (given.contains("init") && given.contains("continue-from")) {
    throw UserError(
        "--init and --continue-from exclude each other: both say what the vector is before the "
        "first step");
  }
  if (given.contains("sign") && options.sign != SignRule::kPlus &&
      !has_two_directions(options.objective)) {
    refuse_directions("--sign");
  }
  require_factors(options.objective, given);
  if (given.contains("sign") && options.sign != SignRule::kBoth &&
      projects_out(options.objective)) {
    refuse_signs_of_reps("--sign");
  }
  require_learned_factor(options.factors.is_learned, given);
  if (!options.log_jsonl.empty() && options.log_jsonl == options.out) {
    throw UserError(
        "--log-jsonl and --out name the same file: the log is a file of its own beside the run "
        "file");
  }
  if (options.resume && options.overwrite) {
    throw UserError(
        "--resume and --overwrite exclude each other: --resume continues the run file, "
        "--overwrite replaces it; give one");
  }
  if (options.select == Select::kBest) {
    require_held_out_margin(options, !options.test.empty(), "--select best");
  }
  if (options.patience > 0) {
    require_held_out_margin(options, !options.test.empty(), "--patience");
  }
  require_part_of_batch(options.micro_batch, options.batch_size);
}

void require_consistent(const SweepOptions& options, const GivenNames& given) {
  if (given.contains("train") == given.contains("data")) {
    throw UserError(
        "give one of --train (one data set, with --test) and --data (several, NAME=TRAIN:TEST)");
  }
  if (given.contains("test") && given.contains("data")) {
    throw UserError(
        "--test and --data exclude each other: --data names the held-out pairs as NAME=TRAIN:TEST");
  }
  if (options.json && !options.dry_run) {
    throw UserError(
        "--json needs --dry-run, whose plan it prints; what a sweep made, `bipo-dist collect "
        "--json` "
        "says");
  }
  if (given.contains("adapter") && options.axes.models.size() > 1) {
    throw UserError(fmt::format(
        "--adapter belongs to one model, but --models names {}; make a sweep for each model",
        options.axes.models.size()));
  }
  require_one_warmup(given);
  require_objectives(options.axes, given);
  const std::vector<std::string>& factors = options.axes.factors;
  require_learned_factor(
      options.factors.is_learned || std::count(factors.begin(), factors.end(), "learned") > 0,
      given);
  const std::vector<NamedData>& sets = options.axes.data;
  const bool has_pairs = sets.empty()
                             ? !options.test.empty()
                             : std::none_of(sets.begin(), sets.end(),
                                            [](const NamedData& set) { return set.test.empty(); });
  if (options.select == Select::kBest) {
    require_held_out_margin(options, has_pairs, "--select best");
  }
  if (options.patience > 0) {
    require_held_out_margin(options, has_pairs, "--patience");
  }
  for (const std::int64_t batch_size : options.axes.batch_sizes) {
    require_part_of_batch(options.micro_batch, batch_size);
  }
}

void require_consistent(const BenchOptions& options, const GivenNames& given) {
  require_one_model_and_pairs(options, given);
  if (given.contains("adapter") && given.contains("shape")) {
    throw UserError("--adapter needs --model: a --shape has no weights to change");
  }
}

void require_consistent(const PlanOptions& options, const GivenNames& given) {
  require_one_model_and_pairs(options, given);
  if (given.contains("machine") && given.contains("measured")) {
    throw UserError("--machine and --measured exclude each other: both describe the machine");
  }
  if (options.devices_per_node && options.devices % *options.devices_per_node != 0) {
    throw UserError(fmt::format("--devices {} is not a multiple of --devices-per-node {}",
                                options.devices, *options.devices_per_node));
  }
  if (options.tp && options.devices % *options.tp != 0) {
    throw UserError(
        fmt::format("--devices {} is not a multiple of --tp {}", options.devices, *options.tp));
  }
}

namespace {

// The algebra of conceptors takes files, and nothing that says how activations are made.
void require_conceptors_alone(const ExtractOptions& options, const GivenNames& given) {
  const bool is_not = options.method == ExtractMethod::kConceptorNot;
  if (is_not ? options.vectors.size() != 1 : options.vectors.size() < 2) {
    throw UserError(
        is_not ? fmt::format("--method conceptor-not takes one --vector, the file of the conceptor "
                             "C of which it makes I - C; {} are given",
                             options.vectors.size())
               : fmt::format("--method conceptor-and and conceptor-or combine the conceptors of at "
                             "least two files; {} given by --vector",
                             options.vectors.size()));
  }
  for (const VectorChoice& choice : options.vectors) {
    if (choice.weight != 1 || choice.selection.kind != VectorSelection::Kind::kResult) {
      throw UserError(fmt::format(
          "--vector {}: the algebra of conceptors is about the matrices as they are, without a "
          "weight or an epoch; @W is the beta of a conceptor in generate and evaluate",
          choice.file.string()));
    }
  }
  static const GivenNames belonging = {"method", "vector",   "out",   "overwrite",
                                       "config", "progress", "quiet", "timeout"};
  for (const std::string& name : given) {
    if (!belonging.contains(name)) {
      throw UserError(fmt::format(
          "--{} has no meaning with --method conceptor-and, conceptor-or and conceptor-not: they "
          "combine files (--vector), which hold layer and model, and read neither model nor data",
          name));
    }
  }
}

void require_model_and_pairs(const GivenNames& given) {
  std::vector<std::string> missing;
  for (const char* const name : {"model", "train"}) {
    if (!given.contains(name)) {
      missing.push_back(fmt::format("--{}", name));
    }
  }
  if (!missing.empty()) {
    throw UserError(
        fmt::format("extract needs {}; `bipo-dist extract --help` describes the options",
                    fmt::join(missing, ", ")));
  }
}

}  // namespace

void require_consistent(const ExtractOptions& options, const GivenNames& given) {
  if (given.contains("aperture") && options.method != ExtractMethod::kConceptor) {
    throw UserError(
        "--aperture belongs to --method conceptor, which makes a matrix of second moments; a "
        "combination of conceptors has those of its files");
  }
  const bool is_combination = combines_conceptors(options.method);
  if (!is_combination) {
    require_model_and_pairs(given);
  }
  if (makes_conceptor(options.method) && (given.contains("norm") || given.contains("match-norm"))) {
    throw UserError(
        "--norm and --match-norm set the length of a direction; a conceptor is a matrix, whose "
        "strength is @W behind its file where it is used");
  }
  if (makes_conceptor(options.method) && options.site != Site::kBlock) {
    throw UserError(
        "--site mlp is for directions; a conceptor multiplies the output of a block, and its file "
        "names no other site");
  }
  const bool is_confst = options.method == ExtractMethod::kConfst;
  if (given.contains("probe-c") && options.method != ExtractMethod::kProbe && !is_confst) {
    throw UserError(
        "--probe-c belongs to --method probe and --method confst, which fit a regression");
  }
  if (given.contains("confidence") && !is_confst) {
    throw UserError(
        "--confidence belongs to --method confst, which leaves out the answers that its classifier "
        "is not confident of");
  }
  if (given.contains("background") != (options.method == ExtractMethod::kMeanCentring)) {
    throw UserError(
        "--method mean-centring and --background belong together: the direction leads from the "
        "background's mean to that of the chosen answers of --train");
  }
  for (const char* const name : {"columns", "max-pairs", "data-seed", "answer-pairs"}) {
    if (given.contains(name) && options.method == ExtractMethod::kCaaLetter) {
      throw UserError(
          fmt::format("--{} is about preference pairs, but --method caa-letter reads A/B items "
                      "(question, A, B, matching), all of them",
                      name));
    }
  }
  const bool is_ensemble = options.method == ExtractMethod::kEnsemble;
  if (given.contains("vector") != is_ensemble && !is_combination) {
    throw UserError(
        "--method ensemble and --vector belong together: the direction is the mean of the vectors "
        "of these run files");
  }
  if (options.normalise && !is_ensemble) {
    throw UserError(
        "--normalise belongs to --method ensemble, whose vectors it brings to length 1; the length "
        "of a direction is set by --norm or --match-norm");
  }
  if (given.contains("layers") && is_ensemble) {
    throw UserError(
        "--method ensemble takes --layer, not --layers: each vector belongs to one layer, and the "
        "mean is of vectors of the same");
  }
  if (is_combination) {
    require_conceptors_alone(options, given);
    return;
  }
  if (given.contains("layer") == given.contains("layers")) {
    throw UserError(
        "give one of --layer (one direction, --out is its file) and --layers (several, --out is "
        "their directory)");
  }
  if (given.contains("norm") && given.contains("match-norm")) {
    throw UserError(
        "--norm and --match-norm exclude each other: both set the length of the direction");
  }
}

void require_consistent(const GenerateOptions& options, const GivenNames& given) {
  if (given.contains("prompt") == given.contains("prompts")) {
    throw UserError("give one of --prompt (one question) and --prompts (a file of them)");
  }
  const bool steers = given.contains("multipliers") &&
                      std::any_of(options.multipliers.begin(), options.multipliers.end(),
                                  [](double m) { return m != 0; });
  if (steers && options.vectors.empty()) {
    throw UserError(
        "--multipliers needs --vector, which they multiply; without one, leave them out");
  }
  for (const char* name : {"gate", "intervention"}) {
    if (given.contains(name) && options.vectors.empty()) {
      throw UserError(fmt::format(
          "--{} needs --vector: without one there is nothing that acts; leave it out", name));
    }
  }
  if (options.stream && !given.contains("prompt")) {
    throw UserError("--stream shows the texts of one --prompt, not those of a file");
  }
  if (options.stream && !options.out.empty()) {
    throw UserError(
        "--stream and --out exclude each other: one shows the texts, the other stores them");
  }
}

void require_consistent(const EvaluateOptions& options, const GivenNames& given) {
  if (options.model.empty()) {
    require_judge_files(options, given);
  } else {
    require_measurement(options, given);
  }
  if (given.contains("judge-export")) {
    for (const char* name : {"generations", "rubric", "behaviour"}) {
      if (!given.contains(name)) {
        throw UserError(fmt::format("--judge-export needs --{}", name));
      }
    }
  } else {
    for (const char* name : {"rubric", "judge-model"}) {
      if (given.contains(name)) {
        throw UserError(fmt::format("--{} needs --judge-export, whose requests use it", name));
      }
    }
  }
}

}  // namespace bipo
