#include "experiments/sweep_run/sweep_preparation.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "collectives/device_graph.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/option_values.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/warmup.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/training/micro_batch_room.hpp"
#include "experiments/training/plan_warnings.hpp"
#include "experiments/training/prefix_room.hpp"
#include "experiments/training/run_record.hpp"
#include "trainer/cost/cost.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// "DIR/" names the same directory as "DIR", but its last component is empty.
std::filesystem::path without_last_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

// Returns the options that all cells of the inputs share; the axes keep their defaults.
TrainOptions options_of(const SweepOptions& sweep, const NamedModel& model, const NamedData& data) {
  TrainOptions options;
  static_cast<TrainingOptions&>(options) = sweep;
  options.model = model.directory;
  options.train = data.train;
  options.test = data.test;
  return options;
}

// Returns the micro-batch of the largest batch, so that one cache serves cells of every batch size.
std::int64_t largest_micro_batch(const SweepOptions& options) {
  const auto& sizes = options.axes.batch_sizes;
  return options.micro_batch.value_or(*std::max_element(sizes.begin(), sizes.end()));
}

std::vector<SweepInputs> read_inputs(const SweepPreparation& sweep, const Session& session,
                                     std::vector<std::string>& problems) {
  const Topology& all = sweep.topology;
  const int ranks_of_cell = all.dp() * all.tp();
  const Topology of_cell(ranks_of_cell, all.rank() % ranks_of_cell, all.tp(), all.dp());
  std::vector<SweepInputs> inputs;
  for (const NamedModel& model : sweep.options.axes.models) {
    for (const NamedData& data : sweep.options.axes.data) {
      try {
        inputs.push_back({model, data,
                          prepare_job(options_of(sweep.options, model, data), of_cell,
                                      largest_micro_batch(sweep.options), session)});
      } catch (const UserError& error) {
        problems.emplace_back(error.what());
      }
    }
  }
  return inputs;
}

std::vector<std::int64_t> blocks_of_models(const SweepPreparation& sweep) {
  std::vector<std::int64_t> blocks;
  const std::size_t sets = sweep.options.axes.data.size();
  for (std::size_t i = 0; i < sweep.inputs.size(); i += sets) {
    blocks.push_back(sweep.inputs[i].job.inputs.config.blocks);
  }
  return blocks;
}

[[noreturn]] void throw_all(std::vector<std::string> problems) {
  // A model that cannot be read fails with every data set alike.
  std::vector<std::string> different;
  for (std::string& problem : problems) {
    if (std::find(different.begin(), different.end(), problem) == different.end()) {
      different.push_back(std::move(problem));
    }
  }
  throw UserError(fmt::format("{}", fmt::join(different, "\n  and ")));
}

// Returns the settings, other than the axes, that shape the results of one model and data set's
// cells.
Json shared_settings(const SweepPreparation& sweep, const Cell& cell) {
  Json settings = Json::parse(result_settings(cell_config(sweep, cell)));
  for (const char* axis :
       {"layer", "seed", "lr", "beta", "objective", "label_smoothing", "simpo_gamma", "reduction",
        kStoredPositionsKey, "sign", "batch_size", "epochs"}) {
    settings.erase(axis);
  }
  settings.erase(kBlockOutputFactorKey);  // follows from the model, and some have none
  const SweepAxes& axes = sweep.options.axes;
  for (const auto& [name, values] :
       {std::pair("norm", &axes.norms), std::pair("schedule", &axes.schedules),
        std::pair("init", &axes.inits), std::pair("factors", &axes.factors)}) {
    if (!values->empty()) {
      settings.erase(name);
    }
  }
  if (std::count(axes.factors.begin(), axes.factors.end(), "learned") > 0) {
    settings["factor_lr"] = sweep.options.factor_lr;
    settings["factor_init"] = sweep.options.factor_init;
  }
  if (!sweep.options.micro_batch) {
    settings["micro_batch"] = "auto";  // the batch
  }
  settings["warmup_steps"] = planned_warmup(sweep.options);  // cells differ in their steps
  return settings;
}

// Returns {"settings" that all cells share..., "inputs": the settings in which models and data sets
// differ}.
std::string plan_settings_text(const SweepPreparation& sweep) {
  std::vector<Json> of_inputs;
  for (const SweepInputs& inputs : sweep.inputs) {
    const auto cell =
        std::find_if(sweep.plan.cells.begin(), sweep.plan.cells.end(), [&](const Cell& candidate) {
          return candidate.model == inputs.model.name && candidate.data == inputs.data.name;
        });
    of_inputs.push_back(shared_settings(sweep, *cell));
  }
  Json common = Json::object();
  Json differing = Json::array();
  for (const SweepInputs& inputs : sweep.inputs) {
    differing.push_back({{"model", inputs.model.name}, {"data", inputs.data.name}});
  }
  for (const auto& [name, value] : of_inputs.front().items()) {
    const bool is_common = std::all_of(of_inputs.begin(), of_inputs.end(),
                                       [&](const Json& other) { return other.at(name) == value; });
    if (is_common) {
      common[name] = value;
      continue;
    }
    for (std::size_t i = 0; i < of_inputs.size(); ++i) {
      differing[i][name] = of_inputs[i].at(name);
    }
  }
  common["inputs"] = std::move(differing);
  return common.dump();
}

std::int64_t vectors_per_pass(const SweepPreparation& sweep, const Cell& cell) {
  if (sweep.options.vectors_per_pass) {
    return *sweep.options.vectors_per_pass;
  }
  const JobPreparation& job = sweep.inputs[inputs_of(sweep, cell)].job;
  const auto micro_batch = static_cast<double>(cell_options(sweep, cell).micro_batch.value());
  const double tokens = micro_batch_of(mean_pair(job.inputs.train), micro_batch).tokens;
  return choose_vectors_per_pass(static_cast<std::int64_t>(std::ceil(tokens)));
}

void make_plan(SweepPreparation& sweep) {
  SweepPlan& plan = sweep.plan;
  plan.vectors_per_pass = sweep.options.vectors_per_pass;
  plan.packs = packs_of(sweep, plan.cells);
  plan.settings = plan_settings_text(sweep);
  sweep.plan_text = plan_to_json(plan);
}

BatchPlan batch_plan(const SweepPreparation& sweep, const Cell& cell) {
  const JobPreparation& job = sweep.inputs[inputs_of(sweep, cell)].job;
  return BatchPlan(plan_settings(cell_options(sweep, cell), job.inputs.train));
}

std::int64_t steps_of(const SweepPreparation& sweep, const Cell& cell) {
  PlanSettings plan;
  plan.pairs =
      static_cast<std::int64_t>(sweep.inputs[inputs_of(sweep, cell)].job.inputs.train.size());
  plan.batch_size = cell.batch_size;
  plan.epochs = cell.epochs;
  plan.max_steps = sweep.options.max_steps;
  return BatchPlan(plan).total_steps();
}

void add_new(std::vector<std::string>& lines, const std::vector<std::string>& more) {
  for (const std::string& line : more) {
    if (std::find(lines.begin(), lines.end(), line) == lines.end()) {
      lines.push_back(line);
    }
  }
}

// Returns all layers of the cells that read these inputs.
SteeredLayers all_layers(const SweepPreparation& sweep, std::size_t inputs) {
  std::set<std::int64_t> layers;
  for (const Cell& cell : sweep.plan.cells) {
    if (inputs_of(sweep, cell) == inputs) {
      const SteeredLayers of_cell = steered_layers(cell);
      layers.insert(of_cell.blocks().begin(), of_cell.blocks().end());
    }
  }
  return SteeredLayers(std::vector<std::int64_t>(layers.begin(), layers.end()));
}

// Adds what the positions of cells leave unsteered.  Throws UserError as unsteered_warnings() does,
// that is, where no cell of such positions could train.
void check_steered_pairs(SweepPreparation& sweep) {
  for (std::size_t i = 0; i < sweep.inputs.size(); ++i) {
    SweepInputs& inputs = sweep.inputs[i];
    const SteeredLayers layers = all_layers(sweep, i);
    for (const std::string& text : sweep.options.axes.positions) {
      SteeredPositions positions = parse_positions(text);
      positions.left_out_bos = inputs.job.options.positions.left_out_bos;
      add_new(inputs.job.warnings, unsteered_warnings(inputs.job.inputs, positions, layers));
    }
  }
}

// Looks at one pack of each kind: packs that differ in seeds and rates alone draw other
// micro-batches of the same sizes.  Graphs are recorded if that pays for all of them.
void require_room(SweepPreparation& sweep) {
  std::set<std::string> seen;
  for (const Pack& pack : sweep.plan.packs) {
    const Cell& first = pack.members.front();
    const std::size_t inputs = inputs_of(sweep, first);
    std::string kind = fmt::format("{} {} {}", inputs, first.layer, first.batch_size);
    std::vector<TrainOptions> members;
    for (const Cell& cell : pack.members) {
      kind += fmt::format(", {} {}", cell.sign, cell.factors);
      members.push_back(cell_options(sweep, cell));
    }
    if (seen.insert(kind).second) {
      JobPreparation& job = sweep.inputs[inputs].job;
      if (const std::string reason = reason_not_to_record(job, members); !reason.empty()) {
        choose_graphs(false);
        job.unrecorded = reason;
      }
      require_micro_batch_room(job, members);
    }
  }
}

// Adds the warnings about the batch plans of all packs, each once.
void add_warnings(SweepPreparation& sweep) {
  std::vector<std::string> seen;
  for (const Pack& pack : sweep.plan.packs) {
    const Cell& cell = pack.members.front();
    JobPreparation& job = sweep.inputs[inputs_of(sweep, cell)].job;
    const PlanWording wording{"a cell's run", "--lrs",
                              ", and a sweep cuts batches alike for any number of replicas"};
    for (std::string& warning :
         plan_warnings(batch_plan(sweep, cell), cell_options(sweep, cell).warmup_steps.value(),
                       cell_options(sweep, cell).micro_batch.value(), job.computation.topology.dp(),
                       wording)) {
      if (std::find(seen.begin(), seen.end(), warning) == seen.end()) {
        seen.push_back(warning);
        job.warnings.push_back(std::move(warning));
      }
    }
  }
}

}  // namespace

std::vector<std::string> SweepPreparation::warnings() const {
  std::vector<std::string> different;
  for (const SweepInputs& of_inputs : inputs) {
    add_new(different, of_inputs.job.warnings);
  }
  return different;
}

std::vector<std::string> SweepPreparation::notes() const {
  std::vector<std::string> different;
  for (const SweepInputs& of_inputs : inputs) {
    add_new(different, of_inputs.job.inputs.notes);
  }
  return different;
}

SweepPreparation prepare_sweep(const SweepOptions& options, const Session& session) {
  SweepPreparation sweep;
  sweep.options = options;
  sweep.options.out = without_last_slash(options.out);
  if (options.axes.data.empty()) {
    sweep.options.axes.data = {{data_name(options.train), options.train, options.test}};
  }
  if (options.dry_run) {
    sweep.options.cache_dir.clear();  // preparation would create it
  }
  sweep.topology = arrange_ranks(options, /*default_dp=*/1, session);
  std::vector<std::string> problems;
  sweep.inputs = read_inputs(sweep, session, problems);
  if (!problems.empty()) {
    throw_all(std::move(problems));
  }
  sweep.plan.cells = expand(sweep.options.axes, blocks_of_models(sweep));
  check_steered_pairs(sweep);
  make_plan(sweep);
  if (!options.dry_run) {
    for (SweepInputs& inputs : sweep.inputs) {
      const auto lowest = std::min_element(
          sweep.plan.cells.begin(), sweep.plan.cells.end(), [&](const Cell& a, const Cell& b) {
            return std::pair(a.model != inputs.model.name, a.layer) <
                   std::pair(b.model != inputs.model.name, b.layer);
          });
      choose_cache_budget(inputs.job, {lowest->layer}, session);
      choose_prefix_packs(
          inputs.job,
          {{lowest->layer}, options.eval_every > 0, /*budget=*/0, uses_reference(sweep)});
    }
    require_room(sweep);
    add_warnings(sweep);
  }
  ContentHash plan;
  plan.add(sweep.plan_text);
  for (const SweepInputs& inputs : sweep.inputs) {
    plan.add(inputs.job.computation.kernels);
  }
  sweep.agreement = plan.value();
  return sweep;
}

std::vector<Pack> packs_of(const SweepPreparation& sweep, const std::vector<Cell>& cells) {
  return make_packs(
      cells, [&](const Cell& cell) { return vectors_per_pass(sweep, cell); },
      [&](const Cell& cell) { return cell_cost(sweep, cell); });
}

void adopt_packs(SweepPreparation& sweep, const std::string& text) {
  sweep.plan.packs = packs_in_plan(text, sweep.plan.cells, plan_path(sweep.options.out).string());
  sort_longest_first(sweep.plan.packs, [&](const Cell& cell) { return cell_cost(sweep, cell); });
}

std::uint64_t least_cache_budget(const SweepPreparation& sweep) {
  std::uint64_t least = sweep.inputs.front().job.options.cache_budget.value_or(0);
  for (const SweepInputs& inputs : sweep.inputs) {
    least = std::min(least, inputs.job.options.cache_budget.value_or(0));
  }
  return least;
}

std::size_t inputs_of(const SweepPreparation& sweep, const Cell& cell) {
  const auto found =
      std::find_if(sweep.inputs.begin(), sweep.inputs.end(), [&](const SweepInputs& inputs) {
        return inputs.model.name == cell.model && inputs.data.name == cell.data;
      });
  return static_cast<std::size_t>(found - sweep.inputs.begin());
}

bool uses_reference(const SweepPreparation& sweep) {
  return std::any_of(sweep.plan.cells.begin(), sweep.plan.cells.end(), [](const Cell& cell) {
    return uses_reference(parse_objective(cell.objective));
  });
}

TrainOptions cell_options(const SweepPreparation& sweep, const Cell& cell) {
  TrainOptions options = sweep.inputs[inputs_of(sweep, cell)].job.options;
  options.layer = steered_layers(cell);
  options.out = run_file_path(sweep.options.out, cell);
  if (!options.log_jsonl.empty()) {
    options.log_jsonl /= cell.name + ".jsonl";
  }
  options.lr = cell.lr;
  options.beta = cell.beta;
  options.objective = parse_objective(cell.objective);
  options.label_smoothing = cell.label_smoothing;
  options.simpo_gamma = cell.simpo_gamma;
  options.reduction = parse_reduction(cell.reduction);
  const std::int64_t left_out_bos = options.positions.left_out_bos;
  options.positions = parse_positions(cell.positions);
  options.positions.left_out_bos = left_out_bos;
  options.sign = parse_sign_rule(cell.sign);
  options.seed = cell.seed;
  options.batch_size = cell.batch_size;
  options.epochs = cell.epochs;
  const SweepAxes& axes = sweep.options.axes;
  options.norm = axes.norms.empty() ? options.norm : parse_norm(cell.norm);
  options.start = axes.inits.empty() ? options.start : parse_start(cell.init);
  options.factors = axes.factors.empty() ? options.factors : parse_factors(cell.factors);
  if (!axes.schedules.empty()) {
    const std::vector<std::string>& names = names_of<Schedule>();
    options.schedule =
        static_cast<Schedule>(std::find(names.begin(), names.end(), cell.schedule) - names.begin());
  }
  options.micro_batch = sweep.options.micro_batch.value_or(cell.batch_size);
  options.warmup_steps = warmup_steps(options, steps_of(sweep, cell));
  return options;
}

std::string cell_config(const SweepPreparation& sweep, const Cell& cell) {
  return run_config(cell_options(sweep, cell), sweep.inputs[inputs_of(sweep, cell)].job);
}

void check_belongs(const SweepPreparation& sweep, const Cell& cell, const RunRecord& record) {
  if (!have_same_results(record.attributes.config, cell_config(sweep, cell))) {
    throw UserError(fmt::format(
        "{}: made with other settings than this sweep's; move it away to start its cell anew",
        run_file_path(sweep.options.out, cell).string()));
  }
}

double cell_cost(const SweepPreparation& sweep, const Cell& cell) {
  const JobPreparation& job = sweep.inputs[inputs_of(sweep, cell)].job;
  const TokenCounts pair = mean_pair(job.inputs.train);
  const auto steps = static_cast<double>(batch_plan(sweep, cell).total_steps());
  const auto batch = static_cast<double>(cell.batch_size);
  const double passes = cell.sign == "both" ? 2 : 1;
  return passes * steps *
         floor_operations(job.inputs.config, cell.layer, batch * pair.tokens, batch * pair.answers,
                          sweep.options.site);
}

std::uint64_t run_file_bytes(const SweepPreparation& sweep, const Cell& cell) {
  const SweepInputs& inputs = sweep.inputs[inputs_of(sweep, cell)];
  return run_file_bytes(sweep.options, batch_plan(sweep, cell),
                        steered_layers(cell).count() * inputs.job.inputs.config.hidden,
                        static_cast<std::int64_t>(inputs.job.inputs.test.size()));
}

std::uint64_t cache_bytes_per_layer(const SweepPreparation& sweep, const SweepInputs& inputs) {
  const TrainingInputs& read = inputs.job.inputs;
  const auto bytes = [&](const std::vector<TokenPair>& pairs) {
    return pairs.empty() ? 0 : activation_bytes(inputs.job, pairs);
  };
  return bytes(read.train) + (sweep.options.eval_every > 0 ? bytes(read.test) : 0);
}

}  // namespace bipo
