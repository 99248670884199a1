#include "trainer/cost/cost.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "datasets/batches/prefix_packs.hpp"
#include "trainer/cost/device_activations.hpp"
#include "trainer/cost/machine_table.hpp"
#include "trainer/cost/rank_part.hpp"

namespace bipo {
namespace {

// The host's calls of tensor operations in one block on a CPU, forward and backward.
constexpr double kCallsPerBlock = 60;

// Kernels of a micro-batch on a device besides those of its blocks: tables, steering, head,
// objective; of a forward pass alone.  As the simulated device counts them for a step.
constexpr double kKernelsOfStep = 100;
constexpr double kKernelsOfScores = 60;

// The host's calls for a micro-batch that is replayed, and the rows of one that is filled up to a
// shape that others have, on average: four sizes lie between a power of 2 and the next.
constexpr double kCallsOfGraph = 5;
constexpr double kFilledUp = 1.08;

// Returns 1 + 2 + ... + n.
double triangle(double n) {
  return n * (n + 1) / 2;
}

TokenCounts counts_of(double prompt, double chosen, double rejected, double shared) {
  double seen_keys = triangle(prompt);
  for (const double answer : {chosen - 1, rejected - 1}) {
    seen_keys += answer * prompt + triangle(answer);
  }
  return {.pairs = 1,
          .tokens = prompt + chosen + rejected - 2,
          .shared = shared,
          .answers = chosen + rejected,
          .seen_keys = seen_keys,
          .longest_prompt = prompt,
          .longest_answer = std::max(chosen, rejected)};
}

std::int64_t common_prompt(const std::vector<TokenPair>& pairs) {
  const std::vector<TokenId>& first = pairs.front().prompt;
  auto end = first.end();
  for (const TokenPair& pair : pairs) {
    end = std::mismatch(first.begin(), end, pair.prompt.begin(), pair.prompt.end()).first;
  }
  return end - first.begin();
}

Range blocks_after(const ModelConfig& config, std::int64_t layer) {
  return {layer + 1, config.blocks};
}

// Returns the block that runs in every pass and has no backward, because what is steered comes
// after its products; empty where block outputs are steered.
Range forward_block(std::int64_t layer, Site site) {
  return {SteeredPlace{layer, site}.blocks_before(), layer + 1};
}

// libtorch, MPI and the program: measured on Linux.
constexpr double kProgramBytes = 172e6;
// What a pair and each of its tokens take: the row while it is read, later ids, sums and
// log-probabilities.  Measured on Linux.
constexpr double kPairBytes = 1000;
constexpr double kTokenBytes = 16;
// What a pair under way in the prefix pass and each of its tokens take, activations aside: the
// tables of its packing.  Measured on Linux.
constexpr double kPackedBytes = 4000;
constexpr double kPackedTokenBytes = 150;
// A CUDA context with cuBLAS's workspace.
constexpr double kCudaContextBytes = 600e6;

struct Link {
  double bytes;  // per second
  double latency;
};

// Returns what `ranks` neighbours exchange by: the network, if they are on several nodes.
Link link_of(const RunShape& run, std::int64_t ranks, const MachineSpeed& machine) {
  const bool leaves_node = run.ranks_per_node > 0 && ranks > run.ranks_per_node;
  return leaves_node && machine.network_bytes > 0
             ? Link{machine.network_bytes, machine.network_latency}
             : Link{machine.link_bytes, machine.link_latency};
}

// Returns the sizes of a micro-batch of a training.
TokenCounts filled_batch_of(const RunShape& run) {
  TokenCounts micro = micro_batch_of(run.pair, run.micro_pairs, run.ways);
  if (run.graphs) {
    micro.tokens *= kFilledUp;
    micro.answers *= kFilledUp;
    micro.seen_keys *= kFilledUp;
  }
  return micro;
}

// Seconds of a run on a machine, on the rank with the most work.
class RunTiming {
 public:
  RunTiming(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine)
      : run_(run),
        machine_(machine),
        part_(largest_part(config, run.tp)),
        forward_(forward_block(run.layer, run.site)),
        suffix_(blocks_after(config, run.layer)) {}

  // One micro-batch, forward and perhaps backward.
  StepSeconds micro_batch(bool backward) const {
    return micro_batch(
        backward ? filled_batch_of(run_) : micro_batch_of(run_.pair, run_.micro_pairs, run_.ways),
        backward);
  }

  StepSeconds micro_batch(const TokenCounts& micro, bool backward) const {
    const double directions = backward ? 2 : 1;
    const Operations work = work_of(micro, backward);
    const double block_bytes =
        (directions * part_.matrices(suffix_) + part_.matrices(forward_)) * run_.bytes.block;
    const double head_bytes = directions * part_.head * run_.bytes.head;
    StepSeconds seconds;
    seconds.products = roofline(work.products, block_bytes, machine_.product_share);
    seconds.attention = work.attention / (machine_.operations * machine_.attention_share);
    seconds.recurrence = work.recurrence / (machine_.operations * machine_.recurrence_share);
    seconds.head = roofline(work.head, head_bytes, machine_.head_share);
    const double moved =
        directions / 2 * part_.moved_per_token(suffix_) + part_.moved_per_token(forward_) / 2;
    seconds.elementwise = moved * micro.tokens * kActivationBytes /
                          (machine_.copy_bytes * machine_.elementwise_share);
    seconds.collectives =
        exchange(suffix_, micro.tokens, directions) + exchange(forward_, micro.tokens, 1);
    const double calls = calls_of_micro_batch(backward) * machine_.seconds_per_call;
    // A device works while the host makes the next calls; a CPU does both itself.
    seconds.other = run_.cuda ? std::max(0.0, calls - seconds.total()) : calls;
    return seconds;
  }

  // What follows the prefix of `pairs` pairs in one pack, for the reference.
  double reference(double pairs) const {
    return micro_batch(micro_batch_of(run_.pair, pairs), /*backward=*/false).total();
  }

  double prefix(double pairs) const {
    const Range blocks = {0, forward_.begin};
    const TokenCounts pack = micro_batch_of(run_.pair, pairs);
    const Operations work = part_.prefix(blocks, pack);
    const double weights = part_.matrices(blocks) * run_.bytes.block;
    const double of_pack =
        roofline(work.products, weights, machine_.product_share) +
        work.attention / (machine_.operations * machine_.attention_share) +
        part_.moved_per_token(blocks) / 2 * pack.tokens * kActivationBytes / machine_.copy_bytes +
        exchange(blocks, pack.tokens, 1);
    const double calls = calls_of(blocks, /*backward=*/false) * machine_.seconds_per_call;
    return run_.cuda ? std::max(of_pack, calls) : of_pack + calls;
  }

  // The host's calls of tensor operations; on a device the kernels that it asks for.
  double calls_of_micro_batch(bool backward) const {
    if (run_.graphs && backward) {
      return kCallsOfGraph;
    }
    const double besides = run_.cuda  ? (backward ? kKernelsOfStep : kKernelsOfScores)
                           : backward ? kCallsPerBlock
                                      : kCallsPerBlock / 2;
    return calls_of(suffix_, backward) + calls_of(forward_, /*backward=*/false) + besides;
  }

  Operations work_of(const TokenCounts& micro, bool backward) const {
    Operations work = backward ? part_.step(suffix_, micro) : part_.forward(suffix_, micro);
    const Operations forward = part_.prefix(forward_, micro);
    work.products += forward.products;
    work.attention += forward.attention;
    work.recurrence += forward.recurrence;
    return work;
  }

 private:
  static double count(Range blocks) { return static_cast<double>(blocks.size()); }

  double calls_of(Range blocks, bool backward) const {
    if (!run_.cuda) {
      return count(blocks) * (backward ? kCallsPerBlock : kCallsPerBlock / 2);
    }
    const bool narrow = run_.bytes.block < kActivationBytes;
    return part_.sum(blocks, [&](const BlockPart& block) {
      const DeviceKernels kernels = block.device_kernels(narrow, run_.flash);
      return kernels.forward + (backward ? kernels.backward : 0);
    });
  }

  // A matrix product takes the time of its operations or of reading its weights, whichever is
  // longer.
  double roofline(double operations, double weight_bytes, double share) const {
    return std::max(operations / (machine_.operations * share), weight_bytes / machine_.copy_bytes);
  }

  // Two exchanges of the residual stream per block and direction; a ring moves each element twice
  // but for one rank's part.
  double exchange(Range blocks, double tokens, double directions) const {
    if (run_.tp == 1) {
      return 0;
    }
    const auto ranks = static_cast<double>(run_.tp);
    const double bytes = tokens * part_.hidden * kActivationBytes;
    const Link link = link_of(run_, run_.tp, machine_);
    return 2 * directions * count(blocks) *
           (link.latency + 2 * (ranks - 1) / ranks * bytes / link.bytes);
  }

  const RunShape& run_;
  const MachineSpeed& machine_;
  RankPart part_;
  Range forward_;
  Range suffix_;
};

StepSeconds scaled(StepSeconds seconds, double factor) {
  for (double* part : {&seconds.products, &seconds.attention, &seconds.recurrence, &seconds.head,
                       &seconds.elementwise, &seconds.collectives, &seconds.other}) {
    *part *= factor;
  }
  return seconds;
}

}  // namespace

TokenCounts mean_pair(const std::vector<TokenPair>& pairs) {
  TokenCounts mean;
  const auto count = static_cast<double>(pairs.size());
  for (const TokenPair& pair : pairs) {
    const TokenCounts one =
        counts_of(static_cast<double>(pair.prompt.size()), static_cast<double>(pair.chosen.size()),
                  static_cast<double>(pair.rejected.size()), 0);
    mean.tokens += one.tokens / count;
    mean.answers += one.answers / count;
    mean.seen_keys += one.seen_keys / count;
    mean.longest_prompt = std::max(mean.longest_prompt, one.longest_prompt);
    mean.longest_answer = std::max(mean.longest_answer, one.longest_answer);
  }
  mean.pairs = 1;
  mean.shared = static_cast<double>(common_prompt(pairs));
  return mean;
}

TokenCounts uniform_pair(std::int64_t prompt, std::int64_t answer, std::int64_t shared) {
  const auto length = static_cast<double>(answer);
  return counts_of(static_cast<double>(prompt), length, length, static_cast<double>(shared));
}

TokenCounts micro_batch_of(const TokenCounts& pair, double count, double ways) {
  const double once_only = std::max(0.0, count - ways);
  TokenCounts micro = pair;
  micro.pairs = count * pair.pairs;
  micro.tokens = count * pair.tokens - once_only * pair.shared;
  micro.answers = count * pair.answers;
  micro.seen_keys = count * pair.seen_keys - once_only * triangle(pair.shared);
  return micro;
}

double block_parameters(const ModelConfig& config, std::int64_t block) {
  return static_cast<double>(block_elements(config, plan_shard(config, 1, 0), block).matrices);
}

double model_parameters(const ModelConfig& config) {
  const RankPart whole = largest_part(config, 1);
  return whole.sum({0, config.blocks},
                   [](const BlockPart& block) { return block.matrices + block.vectors; }) +
         whole.vectors + whole.embedding + (config.tied_head ? 0 : whole.head);
}

DeviceKernels block_kernels(const ModelConfig& config, std::int64_t block, bool bf16, bool flash) {
  return largest_part(config, 1)
      .blocks.at(static_cast<std::size_t>(block))
      .device_kernels(bf16, flash);
}

double floor_operations(const ModelConfig& config, std::int64_t layer, double tokens,
                        double answers, Site site) {
  const RankPart whole = largest_part(config, 1);
  return (4 * whole.matrices(blocks_after(config, layer)) +
          2 * whole.matrices(forward_block(layer, site))) *
             tokens +
         4 * static_cast<double>(config.vocabulary) * static_cast<double>(config.hidden) * answers;
}

Operations step_operations(const ModelConfig& config, std::int64_t layer,
                           const TokenCounts& micro) {
  return largest_part(config, 1).step(blocks_after(config, layer), micro);
}

Operations forward_operations(const ModelConfig& config, std::int64_t layer,
                              const TokenCounts& micro) {
  return largest_part(config, 1).forward(blocks_after(config, layer), micro);
}

Operations prefix_operations(const ModelConfig& config, std::int64_t layer,
                             const TokenCounts& pair) {
  return largest_part(config, 1).prefix({0, layer + 1}, pair);
}

ElementBytes element_bytes(bool bf16, bool emulated, bool float_head, bool bf16_cache) {
  const auto bytes = [](bool two) { return two ? 2.0 : 4.0; };
  return {bytes(bf16 && !emulated), bytes(bf16 && !float_head), bytes(bf16), bytes(bf16_cache)};
}

double RankMemory::peak(bool with_cache) const {
  return program + data + head + std::max(prefix, suffix + activations + graphs) +
         (with_cache ? cache : 0);
}

RankMemory rank_memory(const ModelConfig& config, const RunShape& run) {
  const RankPart part = largest_part(config, run.tp);
  const Range suffix = blocks_after(config, run.layer);
  const auto bytes = [&](const BlockPart& block) { return block.bytes(run.bytes); };
  const TokenCounts micro = micro_batch_of(run.pair, run.micro_pairs, run.ways);
  const double tokens_of_all = run.pairs * run.pair.tokens;

  RankMemory memory;
  const std::int64_t first = forward_block(run.layer, run.site).begin;
  memory.suffix = part.sum({first, config.blocks}, bytes);
  memory.head = part.head * run.bytes.head + part.vectors * kActivationBytes;
  memory.cache = tokens_of_all * part.hidden * run.bytes.cache;
  // Blocks stay from the prefix's last on.  Either those before it are loaded one at a time, for
  // all pairs, or all are loaded at once, for one pair after the other.
  const Range below = {0, std::max<std::int64_t>(0, first - 1)};
  const double lower = part.sum(below, bytes);
  const double steered = part.sum({below.end, first}, bytes);
  const double pairs_of_rank = run.pairs / static_cast<double>(run.dp);
  const double hidden = pairs_of_rank * run.pair.tokens * part.hidden * kActivationBytes;
  const double embedding = part.embedding * (config.tied_head ? 0 : run.bytes.embedding);
  const double whole = embedding + lower + steered + memory.suffix;
  const double by_block = embedding + std::max({part.most(below, bytes), steered, memory.suffix});
  const double under_way =
      hidden + pairs_of_rank * (kPackedBytes + kPackedTokenBytes * run.pair.tokens);
  // Beside the blocks, an accelerator holds a portion of the pairs in half of what is left.
  const double left = run.device_bytes - kCudaContextBytes - memory.head - by_block;
  const double portion =
      run.device_bytes > 0 ? std::min(under_way, std::max(0.0, left / 2)) : under_way;
  const bool holds_whole =
      run.device_bytes == 0 || run.device_bytes - kCudaContextBytes > 1.1 * (whole + memory.head);
  memory.prefix = lower > hidden || !holds_whole ? by_block + portion : whole;
  memory.data = run.pairs * (kPairBytes + kTokenBytes * run.pair.tokens);
  double activations =
      run.cuda ? device_activations(part, suffix, run) : part.activations(suffix, micro);
  if (run.site == Site::kMlp) {
    // Before the others it runs forward; of a norm behind what is steered the input is kept.
    const BlockPart& block = part.blocks.at(static_cast<std::size_t>(run.layer));
    const double tokens = filled_batch_of(run).tokens;
    activations = std::max(activations + (block.output_norms ? tokens * (block.hidden + 1) : 0),
                           tokens * block.forward_per_token());
  }
  memory.activations = activations * kActivationBytes;
  // Graphs share the memory of the largest; micro-batches that have none yet run beside them.
  memory.graphs = run.graphs ? memory.activations : 0;
  memory.program = kProgramBytes + (run.cuda ? kCudaContextBytes : 0);
  return memory;
}

bool can_have_graphs(const ModelConfig& config, const RunShape& run) {
  return run.cuda && run.tp == 1 && !config.delta_net;
}

bool graphs_pay(const ModelConfig& config, const RunShape& run) {
  constexpr double kShareOfHost = 0.5;
  if (!can_have_graphs(config, run)) {
    return false;
  }
  RunShape unrecorded = run;
  unrecorded.graphs = false;
  const MachineEntry& gpu = machine_entry("h100");
  const bool narrow = run.bytes.block < kActivationBytes;
  const MachineSpeed speed = typical_gpu(narrow ? gpu.bf16_flops : gpu.fp32_flops,
                                         gpu.memory_bytes_per_second, gpu.link_bytes_per_second);
  const RunTiming timing(config, unrecorded, speed);
  const StepSeconds seconds = timing.micro_batch(/*backward=*/true);
  const double host = timing.calls_of_micro_batch(/*backward=*/true) * speed.seconds_per_call;
  return host >= kShareOfHost * (seconds.total() - seconds.other);
}

StepSeconds micro_batch_seconds(const ModelConfig& config, const RunShape& run,
                                const MachineSpeed& machine) {
  return RunTiming(config, run, machine).micro_batch(/*backward=*/true);
}

MachineSpeed typical_cpu(double operations, double copy_bytes) {
  return {.operations = operations,
          .copy_bytes = copy_bytes,
          .link_bytes = copy_bytes / 2,
          .product_share = 1,
          .attention_share = 0.1,
          .recurrence_share = 0.2,
          .head_share = 0.83,
          .elementwise_share = 0.95,
          .seconds_per_call = 10e-6,
          .link_latency = 30e-6,
          .network_bytes = 1.25e9,
          .network_latency = 50e-6};
}

MachineSpeed typical_gpu(double operations, double copy_bytes, double link_bytes) {
  return {.operations = operations,
          .copy_bytes = copy_bytes,
          .link_bytes = link_bytes,
          .product_share = 0.6,
          .attention_share = 0.03,
          .recurrence_share = 0.03,
          .head_share = 0.5,
          .elementwise_share = 0.5,
          .seconds_per_call = 8e-6,
          .link_latency = 20e-6,
          .network_bytes = 50e9,
          .network_latency = 30e-6};
}

MachineSpeed calibrated(const ModelConfig& config, const RunShape& run, MachineSpeed machine,
                        const StepSeconds& measured) {
  const auto set_share = [](double& share, double at_full_rate, double seconds) {
    if (at_full_rate > 0 && seconds > 0) {
      share = at_full_rate / seconds;
    }
  };
  MachineSpeed full = machine;
  full.product_share = full.attention_share = full.recurrence_share = full.head_share =
      full.elementwise_share = 1;
  full.seconds_per_call = 1;
  const StepSeconds at_full_rate = micro_batch_seconds(config, run, full);
  const Operations work =
      RunTiming(config, run, full).work_of(filled_batch_of(run), /*backward=*/true);
  set_share(machine.product_share, work.products / machine.operations, measured.products);
  set_share(machine.attention_share, at_full_rate.attention, measured.attention);
  set_share(machine.recurrence_share, at_full_rate.recurrence, measured.recurrence);
  set_share(machine.head_share, work.head / machine.operations, measured.head);
  set_share(machine.elementwise_share, at_full_rate.elementwise, measured.elementwise);
  machine.seconds_per_call =
      measured.other / RunTiming(config, run, machine).calls_of_micro_batch(/*backward=*/true);
  if (run.tp > 1 && measured.collectives > 0) {
    machine.link_latency = 0;
    machine.link_bytes *= at_full_rate.collectives / measured.collectives;
  }
  return machine;
}

double reduction_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs) {
  constexpr double kNumber = 8;  // bytes of a float64 or an int64
  // A ring moves each byte twice but for one rank's part; a message reaches all by a tree.
  const auto reduced = [&](std::int64_t ranks, double bytes) {
    const Link link = link_of(run, run.tp * run.dp, machine);
    const auto count = static_cast<double>(ranks);
    return link.latency * std::ceil(std::log2(count)) +
           2 * (count - 1) / count * bytes / link.bytes;
  };
  const auto hidden = static_cast<double>(config.hidden);
  double seconds = 0;
  if (run.dp > 1) {
    constexpr double kFigures = 3;  // of a pair: margin, loss, tokens
    seconds += reduced(run.dp, 2 * kNumber) + reduced(run.dp, hidden * kNumber) +
               reduced(run.dp, kFigures * batch_pairs * kNumber);
  }
  if (run.tp > 1) {
    const Link link = link_of(run, run.tp, machine);
    seconds += link.latency + hidden * kNumber / link.bytes;
  }
  return run.tp * run.dp > 1 ? seconds + reduced(run.tp * run.dp, 2 * kNumber) : seconds;
}

StepSeconds step_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs) {
  const double micro_batches = std::ceil(batch_pairs / run.micro_pairs);
  StepSeconds seconds = scaled(micro_batch_seconds(config, run, machine),
                               std::ceil(micro_batches / static_cast<double>(run.dp)));
  seconds.reduction = reduction_seconds(config, run, machine, batch_pairs);
  return seconds;
}

double prefix_seconds(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine) {
  const double pairs_of_rank = std::ceil(run.pairs / static_cast<double>(run.dp));
  const double longest =
      std::max(run.pair.tokens, run.pair.longest_prompt + 2 * (run.pair.longest_answer - 1));
  const double of_pack =
      run.cuda ? std::max(1.0, std::floor(static_cast<double>(kTokensPerDevicePack) / longest))
               : std::ceil(static_cast<double>(kTokensPerPack) / run.pair.tokens);
  const double in_a_pack = run.packs_prefix ? std::min(pairs_of_rank, of_pack) : 1;
  const RunTiming timing(config, run, machine);
  const double with_reference =
      std::ceil((run.pairs - run.without_reference) / static_cast<double>(run.dp));
  return pairs_of_rank / in_a_pack * timing.prefix(in_a_pack) +
         with_reference / in_a_pack * timing.reference(in_a_pack);
}

double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs) {
  const double groups = std::ceil(pairs / run.micro_pairs);
  return std::ceil(groups / static_cast<double>(run.dp)) *
         RunTiming(config, run, machine).micro_batch(/*backward=*/false).total();
}

}  // namespace bipo
