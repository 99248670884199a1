#include "launcher/training/run_beginning.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launcher/options/version.hpp"

namespace bipo {

RunAttributes run_attributes(const RunSettings& settings, const TrainingInputs& inputs,
                             const Topology& topology, const Session& session,
                             const std::string& config, const std::string& created_utc) {
  RunAttributes attributes;
  attributes.config = config;
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc = created_utc;
  attributes.model = settings.options.model.string();
  attributes.layer = settings.options.layer;
  attributes.hidden_size = inputs.config.hidden;
  attributes.world_size = topology.world();
  attributes.dp = topology.dp();
  attributes.tp = topology.tp();
  attributes.backend = settings.backend;
  attributes.dtype = settings.dtype;
  attributes.hosts = fmt::format("{}", fmt::join(session.hosts(), ","));
  return attributes;
}

TrainingSettings training_settings(const RunSettings& settings, const PlanSettings& plan,
                                   double residual_rms) {
  const TrainOptions& options = settings.options;
  TrainingSettings training;
  training.plan = plan;
  training.lr = options.lr * (options.lr_unit == "residual" ? residual_rms : 1);
  training.beta = options.beta;
  training.optimizer.weight_decay = options.weight_decay;
  training.max_grad_norm = options.max_grad_norm;
  training.warmup_steps = options.warmup_steps;
  training.multipliers = options.multipliers;
  training.eval_every = options.eval_every;
  training.save_every = options.save_every;
  return training;
}

}  // namespace bipo
