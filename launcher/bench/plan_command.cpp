// The command `plan`: predicts what a run needs and how long it takes, from sizes alone.
#include "launcher/bench/bench.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "collectives/session.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/settings/field.hpp"
#include "launcher/bench/bench_report.hpp"
#include "launcher/bench/machine_peak.hpp"
#include "launcher/bench/plan_report.hpp"
#include "launcher/bench/sample_pairs.hpp"
#include "trainer/cost/machine_table.hpp"
#include "trainer/cost/run_plan.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kPairsWithoutFile = 1000;

void set_pairs(const PlanOptions& options, PlanRequest& request) {
  if (options.train.empty()) {
    const PairLengths& lengths = options.lengths;
    request.pair =
        uniform_pair(lengths.prompt_length, lengths.answer_length, lengths.common_prefix);
    request.train_pairs = options.pairs.value_or(kPairsWithoutFile);
    return;
  }
  const TokenizedFile file =
      read_pairs(options.train, options.source.model, request.config, options);
  const std::vector<TokenPair>& pairs = file.pairs;
  std::cerr << file.understood << '\n';
  for (const std::string& warning : file.warnings) {
    std::cerr << "warning: " << warning << '\n';
  }
  request.pair = mean_pair(pairs);
  request.train_pairs = options.pairs.value_or(static_cast<std::int64_t>(pairs.size()));
}

void set_named_machine(const PlanOptions& options, PlanRequest& request) {
  const MachineEntry& entry = machine_entry(options.machine);
  const Dtype dtype = effective_dtype(options.dtype, /*cuda=*/true);
  request.dtype = name_of(dtype);
  const double operations = dtype == Dtype::kBf16 ? entry.bf16_flops : entry.fp32_flops;
  request.machine = {
      .name = entry.name,
      .source = entry.source,
      .cuda = true,
      .devices = options.devices,
      .memory_bytes = entry.memory_bytes,
      .speed = typical_gpu(operations, entry.memory_bytes_per_second, entry.link_bytes_per_second)};
}

void set_benchmarked_machine(const PlanOptions& options, PlanRequest& request) {
  const std::string path = options.measured.string();
  const MeasuredMachine measured =
      measured_machine(read_input_file(options.measured, kMostSettingsBytes), path);
  if (options.dtype != Dtype::kAuto && name_of(options.dtype) != measured.dtype) {
    throw UserError(fmt::format("--dtype {}: {} holds a measurement in {}", name_of(options.dtype),
                                path, measured.dtype));
  }
  request.dtype = measured.dtype;
  request.machine = {.name = "ranks as measured",
                     .source = path,
                     .cuda = measured.device == "cuda",
                     .devices = options.devices,
                     .memory_bytes = measured.memory_bytes,
                     .speed = measured.speed};
}

// What computes on this machine.
struct LocalRanks {
  c10::Device device;
  Dtype dtype;  // resolved
  std::int64_t threads;
  int ranks;                 // on this host
  std::int64_t micro_batch;  // pairs
};

// Describes `devices` machines as large as a rank's share of this one.
void set_measured_machine(const LocalRanks& local, std::int64_t devices, PlanRequest& request) {
  const bool cuda = !local.device.is_cpu();
  request.dtype = name_of(local.dtype);
  const auto type = local.dtype == Dtype::kBf16 ? c10::kBFloat16 : c10::kFloat;
  const auto tokens = static_cast<std::int64_t>(
      micro_batch_of(request.pair, static_cast<double>(local.micro_batch)).tokens);
  const double operations = measure_product_rate(request.config, 1, 0, tokens, type, local.device);
  const double copy = measure_copy_rate(local.device);
  request.machine = {
      .name = cuda ? "CUDA device of this machine" : "ranks on this machine",
      .source = fmt::format("measured, {} threads", local.threads),
      .cuda = cuda,
      .devices = devices,
      .memory_bytes = static_cast<double>(memory_per_rank(local.device, cuda ? 1 : local.ranks)),
      .speed = cuda ? typical_gpu(operations, copy, copy / 8)
                    : typical_cpu(operations, copy / local.ranks)};
}

void set_this_machine(const PlanOptions& options, PlanRequest& request) {
  const auto ranks = static_cast<int>(options.devices);
  // GPUs that cannot be used are no part of this machine; a run would be refused here.
  const DeviceKind kind = accelerator_fault().empty() ? DeviceKind::kAuto : DeviceKind::kCpu;
  const c10::Device device = choose_device(kind, 0, 1);
  select_device(device);
  const bool cuda = !device.is_cpu();
  const ThreadChoice threads = choose_threads(std::nullopt, cuda ? 1 : ranks,
                                              static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  at::set_num_threads(static_cast<int>(threads.threads));
  set_measured_machine({device, effective_dtype(options.dtype, cuda), threads.threads, ranks,
                        options.micro_batch.value_or(options.batch_size)},
                       options.devices, request);
}

// Returns the most, up to 8 GPUs, that divide the devices into equal nodes.
std::int64_t usual_devices_of_node(const PlannedMachine& machine) {
  constexpr std::int64_t kGpusOfNode = 8;
  std::int64_t count = machine.cuda ? std::min(kGpusOfNode, machine.devices) : machine.devices;
  while (machine.devices % count != 0) {
    --count;
  }
  return count;
}

// Multipliers that need an evaluation: 0 is known from the reference pass.
std::int64_t evaluated(const std::vector<double>& multipliers) {
  return static_cast<std::int64_t>(multipliers.size()) -
         std::count(multipliers.begin(), multipliers.end(), 0.0);
}

// Sets how attention runs.  Throws UserError where flash attention is asked for and cannot.
void set_attention(Attention attention, PlanRequest& request) {
  const Decoder::FlashFit fit =
      Decoder::flash_fit(request.config, request.tp.value_or(1), kLargestFlashHead);
  const std::string reason = attention == Attention::kComposed ? "as --attention asks for"
                             : !request.machine.cuda
                                 ? "flash attention is for GPUs, and the machine has none"
                             : request.dtype != "bf16" ? "flash attention needs --dtype bf16"
                                                       : fit.obstacle;
  if (attention == Attention::kFlash && !reason.empty()) {
    throw UserError(
        fmt::format("--attention flash: {}; --attention auto composes it there", reason));
  }
  if (!request.machine.cuda) {
    return;
  }
  request.flash = attention != Attention::kComposed && request.dtype == "bf16" && fit.some;
  request.attention = !request.flash   ? fmt::format("composed: {}", reason)
                      : reason.empty() ? "flash"
                                       : fmt::format("flash, composed in some blocks: {}", reason);
}

GraphUse graph_use(CudaGraphs graphs) {
  return graphs == CudaGraphs::kOn    ? GraphUse::kWherePossible
         : graphs == CudaGraphs::kOff ? GraphUse::kNone
                                      : GraphUse::kWhereTheyPay;
}

// Sets what follows from the machine and its types.
void set_types(Dtype cache_dtype, PlanRequest& request) {
  const c10::Device device(request.machine.cuda ? c10::kCUDA : c10::kCPU);
  const bool bf16 = request.dtype == "bf16";
  request.packs_prefix =
      request.machine.cuda ||
      Decoder::has_independent_rows(request.config, bf16 ? c10::kBFloat16 : c10::kFloat, device,
                                    request.tp.value_or(1));
  request.bytes = element_bytes(bf16, emulates_bfloat16(device), keeps_float_head(device),
                                cache_dtype == Dtype::kBf16);
}

PlanRequest make_request(const PlanOptions& options) {
  PlanRequest request;
  request.model =
      options.source.shape.empty() ? options.source.model.string() : options.source.shape;
  request.config = read_chosen_config(options.source, options.layer);
  request.layer = steered_layers(options);
  set_pairs(options, request);
  request.test_pairs = options.test_pairs;
  request.uses_reference = uses_reference(options.objective);
  request.graphs = graph_use(options.cuda_graphs);
  request.passes = projects_out(options.objective) ? 2 : 1;
  request.batch_size = options.batch_size;
  request.micro_batch = options.micro_batch;
  request.tp = options.tp;
  request.epochs = options.epochs;
  request.multipliers = evaluated(options.multipliers);
  request.eval_every = options.eval_every;
  request.cells = options.cells;
  if (!options.machine.empty()) {
    set_named_machine(options, request);
  } else if (!options.measured.empty()) {
    set_benchmarked_machine(options, request);
  } else {
    set_this_machine(options, request);
  }
  request.machine.devices_per_node =
      options.devices_per_node.value_or(usual_devices_of_node(request.machine));
  set_types(options.cache_dtype, request);
  set_attention(options.attention, request);
  return request;
}

}  // namespace

int run_plan_command(const PlanOptions& options) {
  const PlanRequest request = make_request(options);
  const RunPlan plan = make_plan(request);
  fmt::print("{}", options.json ? plan_json(request, plan) : plan_text(request, plan));
  return kExitDone;
}

std::string planned_cost(const JobPreparation& job, int local_ranks) {
  const TrainOptions& options = job.options;
  const Computation& computation = job.computation;
  PlanRequest request;
  request.model = options.model.string();
  request.config = job.inputs.config;
  request.layer = steered_layers(options);
  request.pair = mean_pair(job.inputs.train);
  request.train_pairs = static_cast<std::int64_t>(job.inputs.train.size());
  request.test_pairs = static_cast<std::int64_t>(job.inputs.test.size());
  request.uses_reference = uses_reference(options.objective);
  request.graphs = graph_use(options.cuda_graphs);
  request.has_started = true;
  request.batch_size = options.batch_size;
  request.micro_batch = options.micro_batch;
  request.tp = computation.topology.tp();
  request.epochs = options.epochs;
  request.max_steps = options.max_steps;
  request.passes = options.sign == SignRule::kBoth ? 2 : 1;
  request.multipliers = evaluated(options.multipliers);
  request.eval_every = options.eval_every;
  set_measured_machine({computation.device, computation.dtype, computation.threads.threads,
                        local_ranks, options.micro_batch.value()},
                       computation.topology.world(), request);
  if (request.machine.devices % local_ranks == 0) {
    request.machine.devices_per_node = local_ranks;
  }
  set_types(options.cache_dtype, request);
  set_attention(options.attention, request);
  return plan_text(request, make_plan(request));
}

}  // namespace bipo
