// All that is decided and checked about a sweep before the ranks begin to work together.
#include "launcher/sweep_preparation.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "launcher/plan_warnings.hpp"
#include "trainer/cost.hpp"

namespace bipo {
namespace {

TrainOptions cell_options(const SweepOptions& sweep, const Cell& cell) {
  TrainOptions options;
  static_cast<TrainingOptions&>(options) = sweep;
  options.layer = cell.layer;
  options.out = run_file_path(sweep.out, cell);
  options.lr = cell.lr;
  options.beta = cell.beta;
  options.sign = cell.sign;
  options.seed = cell.seed;
  return options;
}

// "DIR/" names the same directory as "DIR", but its last component is empty.
std::filesystem::path without_last_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

StepCost step_cost(const ModelConfig& config, const TokenCounts& pair) {
  const double head = static_cast<double>(config.vocabulary) * static_cast<double>(config.hidden);
  return {config.blocks, head * pair.answers / (block_parameters(config) * pair.tokens)};
}

// What a cell's configuration says of the whole sweep.
std::string shared_settings(const std::string& config) {
  auto settings = nlohmann::ordered_json::parse(result_settings(config));
  for (const char* axis : {"layer", "seed", "lr", "beta", "sign"}) {
    settings.erase(axis);
  }
  return settings.dump();
}

void make_plan(SweepPreparation& sweep) {
  const JobPreparation& job = sweep.job;
  const TokenCounts pair = mean_pair(job.inputs.train);
  sweep.cost = step_cost(job.inputs.config, pair);
  SweepPlan& plan = sweep.plan;
  plan.cells = expand(sweep.options.axes, job.inputs.config.blocks);
  const double tokens = micro_batch_of(pair, static_cast<double>(job.settings.micro_batch)).tokens;
  plan.vectors_per_pass = sweep.options.vectors_per_pass.value_or(
      choose_vectors_per_pass(static_cast<std::int64_t>(std::ceil(tokens))));
  plan.packs = make_packs(plan.cells, plan.vectors_per_pass, sweep.cost);
  plan.settings = shared_settings(cell_config(sweep, plan.cells.front()));
  sweep.plan_text = plan_to_json(plan);
}

// The plan fits, but the file may have been put there from elsewhere.
void check_members(SweepPreparation& sweep, const Pack& pack, const PackProgress& progress) {
  for (std::size_t i = 0; i < progress.members.size(); ++i) {
    const Cell& cell = pack.members[i];
    const std::string& stored = progress.members[i].attributes.config;
    const std::string now = cell_config(sweep, cell);
    if (result_settings(stored) != result_settings(now)) {
      throw UserError(
          fmt::format("{}: made with other settings than this sweep's; move it away, and its cell "
                      "begins anew",
                      run_file_path(sweep.options.out, cell).string()));
    }
    if (i == 0) {
      for (const std::string& difference : harmless_differences(stored, now)) {
        sweep.job.warnings.push_back(fmt::format("{}: {}", pack.name, difference));
      }
    }
  }
}

void read_progress(SweepPreparation& sweep) {
  for (const Pack& pack : sweep.plan.packs) {
    sweep.progress.push_back(read_pack_progress(sweep.options.out, pack));
    check_members(sweep, pack, sweep.progress.back());
  }
}

void collect_warnings(SweepPreparation& sweep) {
  JobPreparation& job = sweep.job;
  const BatchPlan plan(
      plan_settings(cell_settings(sweep, sweep.plan.cells.front()), job.inputs.train));
  const PlanWording wording{"a cell's run", "--lrs",
                            ", and the cut of a sweep does not follow the number of replicas"};
  for (std::string& warning :
       plan_warnings(plan, sweep.options.warmup_steps, job.settings.micro_batch, job.topology->dp(),
                     wording)) {
    job.warnings.push_back(std::move(warning));
  }
}

std::uint64_t agreement_of(const SweepPreparation& sweep) {
  ContentHash hash;
  hash.add(sweep.plan_text);
  for (const PackProgress& progress : sweep.progress) {
    const std::int64_t step =
        progress.members.empty() ? -1 : progress.members.front().checkpoint.step;
    hash.add(fmt::format("{} {}\n", progress.is_complete, step));
  }
  return hash.value();
}

}  // namespace

std::vector<std::int64_t> SweepPreparation::layers_to_train(std::size_t first) const {
  std::set<std::int64_t> layers;
  for (std::size_t i = first; i < plan.packs.size(); ++i) {
    if (!progress[i].is_complete) {
      layers.insert(plan.packs[i].members.front().layer);
    }
  }
  return {layers.begin(), layers.end()};
}

SweepPreparation prepare_sweep(const SweepOptions& options, const Session& session) {
  SweepPreparation sweep;
  sweep.options = options;
  sweep.options.out = without_last_slash(options.out);
  if (options.dry_run) {
    sweep.options.cache_dir.clear();  // preparing would make it
  }
  sweep.job = prepare_job(cell_options(sweep.options, Cell()), options.batch_size, session);
  make_plan(sweep);
  if (!options.dry_run) {
    check_sweep_directory(sweep.options.out, sweep.plan_text);
    read_progress(sweep);
    const std::vector<std::int64_t> layers = sweep.layers_to_train();
    if (!layers.empty()) {
      choose_cache_budget(sweep.job, layers, session);
    }
    collect_warnings(sweep);
  }
  sweep.agreement = agreement_of(sweep);
  return sweep;
}

RunSettings cell_settings(const SweepPreparation& sweep, const Cell& cell) {
  RunSettings settings = sweep.job.settings;
  settings.options = cell_options(sweep.options, cell);
  return settings;
}

std::string cell_config(const SweepPreparation& sweep, const Cell& cell) {
  return settings_to_json(cell_settings(sweep, cell), sweep.job.inputs, *sweep.job.topology);
}

std::uint64_t run_file_bytes(const SweepPreparation& sweep) {
  // A row of each table, and what a file without rows takes.
  constexpr std::int64_t kStepBytes = 77;
  constexpr std::int64_t kEvalBytes = 68;
  constexpr std::int64_t kEmptyFileBytes = 32768;
  const TrainingOptions& options = sweep.options;
  const BatchPlan plan(
      plan_settings(cell_settings(sweep, sweep.plan.cells.front()), sweep.job.inputs.train));
  const std::int64_t steps = plan.total_steps();
  const std::int64_t epochs = (steps + plan.steps_per_epoch() - 1) / plan.steps_per_epoch();
  const bool evaluates = options.eval_every > 0 && !options.test.empty();
  const std::int64_t evaluations =
      evaluates ? (epochs + options.eval_every - 1) / options.eval_every : 0;
  const auto multipliers = static_cast<std::int64_t>(options.multipliers.size());
  const std::int64_t vectors = epochs + 3;  // with the checkpoint's
  const auto vector_bytes =
      sweep.job.inputs.config.hidden * static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::uint64_t>(kEmptyFileBytes + steps * kStepBytes +
                                    evaluations * multipliers * kEvalBytes +
                                    vectors * vector_bytes);
}

}  // namespace bipo
