#include "experiments/training/run_record.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/progress/progress.hpp"
#include "experiments/settings/fields.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/template_dates.hpp"
#include "experiments/settings/version.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {

std::string run_config(const TrainOptions& options, const JobPreparation& job,
                       const nlohmann::ordered_json& continued) {
  const TrainingInputs& inputs = job.inputs;
  TrainOptions described = options;
  nlohmann::ordered_json json = stored_settings(train_fields(described));
  json["model_fingerprint"] = fmt::format("{:016x}", inputs.model_fingerprint);
  if (!options.dry_run) {  // which does not know it
    json[kWeightsHashKey] = fmt::format("{:016x}", inputs.weights_hash);
  }
  json["train_pairs"] = inputs.train.size();
  json["train_tokens_hash"] = fmt::format("{:016x}", inputs.train_hash);
  json["test_pairs"] = inputs.test.size();
  json["test_tokens_hash"] = fmt::format("{:016x}", inputs.test_hash);
  json["world_size"] = job.computation.topology.world();
  if (const auto factor = mlp_output_factor(inputs.config); factor && options.site == Site::kMlp) {
    json[kBlockOutputFactorKey] = *factor;
  }
  if (!continued.is_null()) {
    json[kContinueFromKey] = continued;
  }
  store_template_date(options.template_date, json);
  return settings_text(json);
}

std::vector<SettingGroup> run_table(const TrainOptions& options, const JobPreparation& job,
                                    const Topology& ranks) {
  TrainOptions described = options;
  return settings_table(train_fields(described), job_notes(options, job, ranks));
}

RunAttributes run_attributes(const TrainOptions& options, const JobPreparation& job,
                             const Session& session, const std::string& config,
                             const std::string& created_utc) {
  const Topology& topology = job.computation.topology;
  RunAttributes attributes;
  attributes.config = config;
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc = created_utc;
  attributes.model = options.model.string();
  attributes.layer = options.layer.lowest();
  const std::vector<std::int64_t>& layers = options.layer.blocks();
  attributes.higher_layers.assign(layers.begin() + 1, layers.end());
  attributes.site = options.site;
  attributes.hidden_size = job.inputs.config.hidden;
  attributes.world_size = topology.world();
  attributes.dp = topology.dp();
  attributes.tp = topology.tp();
  attributes.backend = job.computation.backend;
  attributes.dtype = name_of(job.computation.dtype);
  attributes.hosts = fmt::format("{}", fmt::join(session.hosts(), ","));
  return attributes;
}

std::uint64_t run_file_bytes(const TrainingOptions& options, const BatchPlan& plan,
                             std::int64_t numbers, std::int64_t held_out_pairs) {
  // Bytes of a row of each table, and of a file without rows.
  constexpr std::int64_t kStepBytes = 77;
  constexpr std::int64_t kEvalBytes = 68;
  constexpr std::int64_t kSampleBytes = 44;
  constexpr std::int64_t kEmptyFileBytes = 32768;
  const std::int64_t steps = plan.total_steps();
  const std::int64_t epochs = (steps + plan.steps_per_epoch() - 1) / plan.steps_per_epoch();
  const std::int64_t evaluations = held_out_pairs > 0 && options.eval_every > 0
                                       ? (epochs + options.eval_every - 1) / options.eval_every
                                       : 0;
  const auto multipliers = static_cast<std::int64_t>(options.multipliers.size());
  const std::int64_t vectors =
      epochs + (options.select == Select::kBest ? 4 : 3);  // with the checkpoint's
  const std::int64_t vector_bytes = numbers * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::uint64_t>(
      kEmptyFileBytes + steps * kStepBytes + evaluations * multipliers * kEvalBytes +
      (evaluations > 0 ? held_out_pairs * multipliers : 0) * kSampleBytes + vectors * vector_bytes);
}

PlanSettings plan_settings(const TrainOptions& options, const std::vector<TokenPair>& pairs) {
  PlanSettings plan;
  plan.pairs = static_cast<std::int64_t>(pairs.size());
  plan.batch_size = options.batch_size;
  plan.micro_batch = options.micro_batch.value();
  plan.epochs = options.epochs;
  plan.max_steps = options.max_steps;
  plan.seed = options.seed;
  plan.shuffle = options.shuffle;
  plan.sign = options.sign;
  plan.factors = options.factors.values;
  plan.costs = packed_sizes(pairs);
  return plan;
}

std::vector<double> residual_norms(const std::vector<double>& residual_rms, std::int64_t hidden) {
  std::vector<double> norms;
  for (const double rms : residual_rms) {
    norms.push_back(rms * std::sqrt(static_cast<double>(hidden)));
  }
  return norms;
}

std::vector<double> comparable_norms(const TrainOptions& options, const ModelConfig& config,
                                     const std::vector<double>& residual_norms) {
  const bool are_comparable = options.site == Site::kBlock || mlp_output_factor(config).has_value();
  return are_comparable ? residual_norms : std::vector<double>();
}

TrainingSettings training_settings(const TrainOptions& options, const PlanSettings& plan,
                                   const std::vector<double>& residual_rms,
                                   const ModelConfig& config) {
  const std::vector<double> norms = residual_norms(residual_rms, config.hidden);
  TrainingSettings training;
  training.plan = plan;
  training.lr = options.lr * (options.lr_unit == LrUnit::kResidual ? residual_rms.front() : 1);
  training.objective = objective_of(options);
  training.positions = options.positions;
  training.schedule = options.schedule;
  if (options.factors.is_learned) {
    training.factor = FactorTraining{options.factor_lr, options.factor_init};
  }
  training.norm = {options.norm.rule, options.norm.length.absolute(norms.front())};
  training.optimizer.weight_decay = options.weight_decay;
  training.max_grad_norm = options.max_grad_norm;
  training.warmup_steps = options.warmup_steps.value();
  training.multipliers = options.multipliers;
  training.eval_every = options.eval_every;
  training.ends_with_best = options.select == Select::kBest;
  training.patience = options.patience;
  training.save_every = options.save_every;
  training.residual_norm = vector_norm(comparable_norms(options, config, norms));
  return training;
}

TrainingRecord new_record(const TrainOptions& options, std::int64_t hidden, double residual_norm) {
  const std::int64_t parts = options.layer.count();
  TrainingRecord record = starting_record(parts * hidden, options.seed);
  if (options.start != RandomStart()) {
    record.checkpoint.vector =
        random_start(hidden, options.start.length.absolute(residual_norm), options.seed, parts);
  }
  return record;
}

}  // namespace bipo
