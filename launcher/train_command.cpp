#include "launcher/train_command.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "collectives/errors.hpp"
#include "experiments/run_file.hpp"
#include "launcher/machine.hpp"
#include "launcher/progress.hpp"
#include "launcher/run_observer.hpp"
#include "launcher/run_settings.hpp"
#include "launcher/stop_signals.hpp"
#include "launcher/training_inputs.hpp"
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

// The record an existing --out leads to: nothing, or the run to continue.
std::optional<RunRecord> find_previous(const TrainOptions& options) {
  if (!std::filesystem::exists(options.out)) {
    return std::nullopt;
  }
  if (options.resume) {
    return read_run_file(options.out);
  }
  if (!options.overwrite) {
    throw UserError(fmt::format(
        "--out {}: exists already; continue it with --resume, replace it with --overwrite, or "
        "name another file",
        options.out.string()));
  }
  return std::nullopt;
}

std::int64_t choose_micro_batch(const TrainOptions& options, const Topology& topology,
                                const std::optional<RunRecord>& previous) {
  if (options.micro_batch) {
    return *options.micro_batch;
  }
  if (previous) {
    return stored_integer(previous->attributes.config, "micro_batch");
  }
  return std::max<std::int64_t>(1, options.batch_size / topology.dp());
}

PlanSettings plan_settings(const RunSettings& settings, const TrainingInputs& inputs) {
  const TrainOptions& options = settings.options;
  PlanSettings plan;
  plan.pairs = static_cast<std::int64_t>(inputs.train.size());
  plan.batch_size = options.batch_size;
  plan.micro_batch = settings.micro_batch;
  plan.epochs = options.epochs;
  plan.max_steps = options.max_steps;
  plan.seed = options.seed;
  plan.shuffle = options.shuffle;
  plan.sign = parse_sign_rule(options.sign);
  return plan;
}

void check_memory(const TrainingInputs& inputs, const Topology& topology,
                  at::ScalarType product_type, std::uint64_t available) {
  const std::uint64_t needed =
      Decoder::weight_bytes(inputs.config, topology.tp(), topology.tp_rank(), product_type);
  if (needed > available) {
    throw UserError(fmt::format(
        "the model's weights take {:.1f} GiB per rank at --tp {} in this --dtype, but {:.1f} GiB "
        "are free for each rank; raise --tp, use --dtype bf16, or start fewer ranks per node",
        static_cast<double>(needed) / (1 << 30), topology.tp(),
        static_cast<double>(available) / (1 << 30)));
  }
}

// Everything known before the ranks begin to work together.
struct Preparation {
  TrainingInputs inputs;
  RunSettings settings;
  std::optional<Topology> topology;
  c10::Device device{c10::kCPU};
  at::ScalarType product_type = at::kFloat;
  std::optional<RunRecord> previous;
  std::string config;
  std::vector<std::string> warnings;
};

Preparation prepare(const TrainOptions& options, const Session& session) {
  Preparation result;
  RunSettings& settings = result.settings;
  settings.options = options;
  const auto dp = options.dp ? std::optional(static_cast<int>(*options.dp)) : std::nullopt;
  result.topology.emplace(session.size(), session.rank(), static_cast<int>(options.tp), dp);
  result.previous = find_previous(options);
  if (session.rank() == 0) {
    check_writable(options.out);
  }
  result.inputs = read_training_inputs(options);
  plan_shard(result.inputs.config, options.tp, result.topology->tp_rank());

  result.device = choose_device(options.device, session.local_rank(), session.local_size());
  settings.device = result.device.is_cuda() ? "cuda" : "cpu";
  settings.dtype = options.dtype != "auto"   ? options.dtype
                   : result.device.is_cuda() ? "bf16"
                                             : "fp32";
  settings.backend = session.size() == 1 ? "self" : result.device.is_cuda() ? "nccl" : "mpi";
  result.product_type = settings.dtype == "bf16" ? at::kBFloat16 : at::kFloat;
  settings.threads = choose_threads(options.threads, session.local_size());
  settings.micro_batch = choose_micro_batch(options, *result.topology, result.previous);
  const std::uint64_t available = memory_per_rank(result.device, session.local_size());
  check_memory(result.inputs, *result.topology, result.product_type, available);
  settings.cache_budget = options.cache_budget.value_or(available / 2);

  result.config = settings_to_json(settings, result.inputs, *result.topology);
  if (result.previous) {
    const std::string& stored = result.previous->attributes.config;
    check_same_settings(stored, result.config, options.out.string());
    result.warnings = harmless_differences(stored, result.config);
  }
  return result;
}

// Settings that hold for the whole process.
void configure_process(const Preparation& preparation) {
  if (preparation.settings.options.deterministic) {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  at::set_num_threads(static_cast<int>(preparation.settings.threads.threads));
  select_device(preparation.device);
  install_stop_signals();
}

void collect_warnings(Preparation& preparation, const BatchPlan& plan) {
  const RunSettings& settings = preparation.settings;
  auto& warnings = preparation.warnings;
  warnings.insert(warnings.end(), preparation.inputs.warnings.begin(),
                  preparation.inputs.warnings.end());
  if (settings.options.warmup_steps >= plan.total_steps()) {
    warnings.push_back(fmt::format(
        "the warm-up of {} steps is as long as the run or longer ({} steps): the learning rate "
        "never reaches --lr; lower --warmup-steps",
        settings.options.warmup_steps, plan.total_steps()));
  }
  const std::int64_t micro_batches =
      (settings.options.batch_size + settings.micro_batch - 1) / settings.micro_batch;
  if (micro_batches < preparation.topology->dp()) {
    warnings.push_back(fmt::format(
        "{} of {} replicas idle: a batch of {} in micro-batches of {} gives work to {}; lower "
        "--micro-batch, raise --batch-size, or use --tp",
        preparation.topology->dp() - micro_batches, preparation.topology->dp(),
        settings.options.batch_size, settings.micro_batch, micro_batches));
  }
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

int run_prepared(Preparation& preparation, Session& session) {
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
  configure_process(preparation);
  const PlanSettings plan_of_run = plan_settings(settings, preparation.inputs);
  const BatchPlan plan(plan_of_run);
  collect_warnings(preparation, plan);

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
       options.epochs, options.batch_size, plan_of_run.pairs, residual_norm},
      display ? &*display : nullptr);
  TrainingRecord record = starting_record(preparation);
  const RunStatus status =
      train(*decoder, cache, held_out ? &*held_out : nullptr,
            training_settings(settings, plan_of_run, cache.median_rms()), ranks, record, observer);
  if (display) {
    display->finish();
    print_result(record, status, options.out);
  }
  return status == RunStatus::kComplete ? kExitDone : kExitInterrupted;
}

}  // namespace

int run_train_command(const TrainOptions& options, Session& session) {
  std::optional<Preparation> preparation;
  session.together([&] { preparation = prepare(options, session); });
  return run_prepared(*preparation, session);
}

}  // namespace bipo
