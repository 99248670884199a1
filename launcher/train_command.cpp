#include "launcher/train_command.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <optional>

#include "collectives/errors.hpp"
#include "experiments/run_file.hpp"
#include "launcher/progress.hpp"
#include "launcher/run_observer.hpp"
#include "launcher/run_preparation.hpp"
#include "launcher/run_settings.hpp"
#include "launcher/stop_signals.hpp"
#include "launcher/version.hpp"
#include "trainer/activation_cache.hpp"
#include "trainer/model/graph.hpp"
#include "trainer/training.hpp"

namespace bipo {
namespace {

std::string now_utc() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32] = {};
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

// The smallest value of any rank.  Collective over: world
std::uint64_t smallest(std::uint64_t value, Communicator& world) {
  const at::Tensor least = at::full({1}, static_cast<std::int64_t>(value), at::kLong);
  world.all_reduce(least, ReduceOp::kMin);
  return static_cast<std::uint64_t>(least.item<std::int64_t>());
}

RunAttributes attributes_of(const Preparation& preparation, const Session& session) {
  RunAttributes attributes;
  attributes.config = preparation.config;
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc =
      preparation.previous ? preparation.previous->attributes.created_utc : now_utc();
  attributes.model = preparation.settings.options.model.string();
  attributes.layer = preparation.settings.options.layer;
  attributes.hidden_size = preparation.inputs.config.hidden;
  attributes.world_size = preparation.topology->world();
  attributes.dp = preparation.topology->dp();
  attributes.tp = preparation.topology->tp();
  attributes.backend = preparation.settings.backend;
  attributes.dtype = preparation.settings.dtype;
  attributes.hosts = fmt::format("{}", fmt::join(session.hosts(), ","));
  return attributes;
}

TrainingRecord starting_record(const Preparation& preparation) {
  if (preparation.previous) {
    return *preparation.previous;
  }
  TrainingRecord record;
  const auto hidden = static_cast<std::size_t>(preparation.inputs.config.hidden);
  record.checkpoint.vector.assign(hidden, 0.0F);
  record.checkpoint.exp_avg.assign(hidden, 0.0F);
  record.checkpoint.exp_avg_sq.assign(hidden, 0.0F);
  record.checkpoint.seed = preparation.settings.options.seed;
  return record;
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

// The program's result, on stdout.
void print_result(const TrainingRecord& record, RunStatus status,
                  const std::filesystem::path& out) {
  if (!record.evals.empty()) {
    const EvalRow& last = record.evals.back();
    fmt::print("held-out pairs: {:.0f}, after step {}\n", last.pairs, last.step);
    fmt::print("{:>10}  {:>10}  {:>10}  {:>10}\n", "multiplier", "accuracy %", "margin", "loss");
    for (const EvalRow& row : record.evals) {
      if (row.step == last.step) {
        fmt::print("{:>+10g}  {:>10.1f}  {:>+10.4f}  {:>10.4f}\n", row.multiplier,
                   100 * row.accuracy, row.margin, row.loss);
      }
    }
  }
  fmt::print(
      "{}: {}\n",
      status == RunStatus::kComplete ? "run file" : "interrupted; continue with --resume; run file",
      out.string());
  std::fflush(stdout);
}

int run_prepared(const Preparation& preparation, Session& session) {
  const RunSettings& settings = preparation.settings;
  const TrainOptions& options = settings.options;
  const bool speaks = session.rank() == 0;
  if (preparation.previous && preparation.previous->attributes.status == RunStatus::kComplete) {
    if (speaks) {
      std::cerr << fmt::format("{}: complete already, nothing to do\n", options.out.string());
      print_result(*preparation.previous, RunStatus::kComplete, options.out);
    }
    return kExitDone;
  }
  at::set_num_threads(static_cast<int>(settings.threads.threads));
  install_stop_signals();
  const BatchPlan plan(preparation.plan);

  std::optional<ProgressDisplay> display;
  if (speaks) {
    remove_stale_temp_files(options.out);
    display.emplace(std::cerr, stderr_environment());
    display->start_table(settings_table(settings, preparation.inputs, *preparation.topology));
    for (const std::string& warning : preparation.warnings) {
      display->message("warning: " + warning);
    }
  }
  const auto pass = [&](const char* name) {
    return [&display, name](std::int64_t done, std::int64_t total) {
      if (display) {
        display->phase(name, done, total);
      }
    };
  };

  const Ranks ranks = session.make_ranks(*preparation.topology, preparation.device.is_cuda());
  std::optional<Decoder> decoder;
  session.together([&] {
    decoder.emplace(preparation.inputs.config, *preparation.inputs.weights,
                    preparation.product_type, preparation.device, *ranks.tp);
  });

  std::uint64_t budget = smallest(settings.cache_budget, *ranks.world);
  const auto build_cache = [&](const std::vector<TokenPair>& pairs, const char* name) {
    ActivationCache cache(*decoder, options.layer, pairs, settings.micro_batch, budget, ranks,
                          pass(name));
    if (cache.keeps_activations()) {
      budget -= ActivationCache::bytes_needed(*decoder, pairs);
    } else if (display) {
      display->message(fmt::format(
          "warning: the activations of the {} take {:.2f} GiB per rank, more than the cache budget "
          "leaves: blocks 0..{} run again in every step; raise --cache-budget",
          name, static_cast<double>(ActivationCache::bytes_needed(*decoder, pairs)) / (1 << 30),
          options.layer));
    }
    return cache;
  };
  const ActivationCache cache = build_cache(preparation.inputs.train, "training pairs");
  std::optional<ActivationCache> held_out;
  if (!preparation.inputs.test.empty() && options.eval_every > 0) {
    held_out.emplace(build_cache(preparation.inputs.test, "held-out pairs"));
  }
  check_zero_vector(*decoder, cache, ranks);
  if (cache.keeps_activations() && (!held_out || held_out->keeps_activations())) {
    decoder->release_blocks({0, options.layer + 1});
    decoder->release_embedding();
  }

  const double residual_norm =
      cache.median_rms() * std::sqrt(static_cast<double>(decoder->config().hidden));
  if (display) {
    display->finish();
    display->message(fmt::format("median norm of the residual stream after block {}: {:.4g}",
                                 options.layer, residual_norm));
  }
  RunObserver observer(
      {options.out, attributes_of(preparation, session), plan.total_steps(), plan.steps_per_epoch(),
       options.epochs, options.batch_size, preparation.plan.pairs, residual_norm},
      display ? &*display : nullptr);
  TrainingRecord record = starting_record(preparation);
  const RunStatus status = train(*decoder, cache, held_out ? &*held_out : nullptr,
                                 training_settings(settings, preparation.plan, cache.median_rms()),
                                 ranks, record, observer);
  if (display) {
    display->finish();
    print_result(record, status, options.out);
  }
  return status == RunStatus::kComplete ? kExitDone : kExitInterrupted;
}

}  // namespace

int run_train_command(const TrainOptions& options, Session& session) {
  std::optional<Preparation> preparation;
  session.together([&] { preparation = prepare_run(options, session); });
  session.expect_same(preparation->agreement, "the run to make");
  return run_prepared(*preparation, session);
}

}  // namespace bipo
