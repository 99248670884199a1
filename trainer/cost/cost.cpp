// What a training run costs, from the sizes of model, data and machine alone: operations, bytes and
// seconds.
#include "trainer/cost/cost.hpp"

#include <algorithm>
#include <cmath>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

// Of an activation, which is fp32 whatever the weights are.
constexpr double kActivationBytes = 4;

// Operations on tensors in one block, forward and backward, each a call of the host.
constexpr double kCallsPerBlock = 60;

// Sums 1 + 2 + ... + n.
double triangle(double n) {
  return n * (n + 1) / 2;
}

TokenCounts counts_of(double prompt, double chosen, double rejected, double shared) {
  TokenCounts counts;
  counts.pairs = 1;
  counts.tokens = prompt + chosen + rejected - 2;
  counts.shared = shared;
  counts.answers = chosen + rejected;
  counts.seen_keys = triangle(prompt);
  for (const double answer : {chosen - 1, rejected - 1}) {
    counts.seen_keys += answer * prompt + triangle(answer);
  }
  return counts;
}

std::size_t common_prompt(const std::vector<TokenPair>& pairs) {
  const std::vector<TokenId>& first = pairs.front().prompt;
  std::size_t shared = first.size();
  for (const TokenPair& pair : pairs) {
    shared = std::min(shared, pair.prompt.size());
    shared = static_cast<std::size_t>(
        std::mismatch(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(shared),
                      pair.prompt.begin())
            .first -
        first.begin());
  }
  return shared;
}

// Rows that predict: the prompt's last token predicts the first of both answers.
double predicting_rows(const TokenCounts& micro) {
  return micro.answers - micro.pairs;
}

// Of each kind, the most that any rank of a group works on.
struct RankPart {
  double heads;
  double kv_heads;
  double intermediate;
  // Elements of its weights (see HeldElements).
  double block_matrices;
  double block_vectors;
  double final_norm;
  double embedding;
  double head;
};

// Mostly the first rank's, but a later one may straddle two groups of query heads and hold a
// key/value head more.
RankPart largest_part(const ModelConfig& config, std::int64_t tp) {
  const auto raise = [](double& most, std::int64_t count) {
    most = std::max(most, static_cast<double>(count));
  };
  RankPart largest{};
  for (std::int64_t rank = 0; rank < tp; ++rank) {
    const ShardPlan plan = plan_shard(config, tp, rank);
    const HeldElements held = held_elements(config, plan);
    raise(largest.heads, plan.heads.size());
    raise(largest.kv_heads, plan.kv_heads.size());
    raise(largest.intermediate, plan.intermediate.size());
    raise(largest.block_matrices, held.block_matrices);
    raise(largest.block_vectors, held.block_vectors);
    raise(largest.final_norm, held.final_norm);
    raise(largest.embedding, held.embedding);
    raise(largest.head, held.head);
  }
  return largest;
}

// Products of `blocks` blocks per pass over them (2 operations per parameter and token), the last
// of which treats most rows as keys only.
double product_operations(const ModelConfig& config, const RankPart& part, double blocks,
                          const TokenCounts& micro) {
  if (blocks <= 0) {
    return 0;
  }
  const double keys_and_values =
      2 * static_cast<double>(config.hidden * config.head_size) * part.kv_heads;
  const double parameters = part.block_matrices;
  return 2 * ((blocks - 1) * parameters * micro.tokens + keys_and_values * micro.tokens +
              (parameters - keys_and_values) * predicting_rows(micro));
}

// q k^T and its product with v: 4 H K operations per key that a query sees.
double attention_operations(const ModelConfig& config, const RankPart& part, double blocks,
                            const TokenCounts& micro) {
  const double last = predicting_rows(micro) / micro.tokens;
  return 4 * part.heads * static_cast<double>(config.head_size) * micro.seen_keys *
         std::max(0.0, blocks - 1 + last);
}

// The scores again, then the gradients of weights, values, queries and keys: ten for every four of
// the forward pass.
constexpr double kAttentionBackward = 2.5;

Operations forward_of(const ModelConfig& config, const RankPart& part, std::int64_t layer,
                      const TokenCounts& micro) {
  const auto blocks = static_cast<double>(config.blocks - 1 - layer);
  return {product_operations(config, part, blocks, micro),
          attention_operations(config, part, blocks, micro),
          2 * part.head * predicting_rows(micro)};
}

Operations step_of(const ModelConfig& config, const RankPart& part, std::int64_t layer,
                   const TokenCounts& micro) {
  Operations work = forward_of(config, part, layer, micro);
  work.products *= 2;
  work.attention *= 1 + kAttentionBackward;
  work.head *= 2;
  return work;
}

Operations prefix_of(const ModelConfig& config, const RankPart& part, std::int64_t layer,
                     const TokenCounts& pair) {
  const auto blocks = static_cast<double>(layer + 1);
  return {2 * blocks * part.block_matrices * pair.tokens,
          4 * blocks * part.heads * static_cast<double>(config.head_size) * pair.seen_keys, 0};
}

// Elements that the backward pass of one block needs per token: the inputs of both norms (2 D) and
// their scales, queries, keys and values before rotation, rotated queries and keys with each
// query's normaliser, and gate and up.  Frozen weights need no input.
double kept_per_token(const ModelConfig& config, const RankPart& part) {
  const auto d = static_cast<double>(config.hidden);
  const auto k = static_cast<double>(config.head_size);
  return 2 * d + 2 + (2 * part.heads + 3 * part.kv_heads) * k + part.heads + 2 * part.intermediate;
}

// Elements per token that exist for a moment, at most: the gradients of gate and up with that of
// their product, and of the residual stream before and after.
double working_per_token(const ModelConfig& config, const RankPart& part) {
  return 3 * part.intermediate + 4 * static_cast<double>(config.hidden);
}

// Elements per token that one block's norms, rotations, additions and SwiGLU read or write, forward
// and backward.
double moved_per_token(const ModelConfig& config, const RankPart& part) {
  const auto d = static_cast<double>(config.hidden);
  const auto k = static_cast<double>(config.head_size);
  return 20 * d + 6 * (part.heads + 2 * part.kv_heads) * k + 8 * part.intermediate;
}

// Of libtorch, MPI and the program: measured on Linux.
constexpr double kProgramBytes = 260e6;
// Of a CUDA context with cuBLAS's workspace.
constexpr double kCudaContextBytes = 600e6;

// A matrix product takes the time of its operations or of reading its weights, whichever is longer.
double roofline(double operations, double weight_bytes, double share, const MachineSpeed& machine) {
  return std::max(operations / (machine.operations * share), weight_bytes / machine.copy_bytes);
}

// Two exchanges of the residual stream per block and direction; a ring moves each element twice but
// for one rank's part.
double exchange_seconds(const ModelConfig& config, std::int64_t tp, double blocks, double tokens,
                        double directions, const MachineSpeed& machine) {
  if (tp == 1) {
    return 0;
  }
  const auto ranks = static_cast<double>(tp);
  const double bytes = tokens * static_cast<double>(config.hidden) * kActivationBytes;
  return 2 * directions * blocks *
         (machine.link_latency + 2 * (ranks - 1) / ranks * bytes / machine.link_bytes);
}

StepSeconds seconds_of(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine,
                       const TokenCounts& micro, bool backward) {
  const RankPart part = largest_part(config, run.tp);
  const auto blocks = static_cast<double>(config.blocks - 1 - run.layer);
  const double directions = backward ? 2 : 1;
  const Operations work = backward ? step_of(config, part, run.layer, micro)
                                   : forward_of(config, part, run.layer, micro);
  const double block_bytes = directions * blocks * part.block_matrices * run.bytes.block;
  const double head_bytes = directions * part.head * run.bytes.head;
  StepSeconds seconds;
  seconds.products = roofline(work.products, block_bytes, machine.product_share, machine);
  seconds.attention = work.attention / (machine.operations * machine.attention_share);
  seconds.head = roofline(work.head, head_bytes, machine.head_share, machine);
  seconds.elementwise = directions / 2 * blocks * moved_per_token(config, part) * micro.tokens *
                        kActivationBytes / (machine.copy_bytes * machine.elementwise_share);
  seconds.collectives = exchange_seconds(config, run.tp, blocks, micro.tokens, directions, machine);
  const double calls = directions / 2 * (blocks + 1) * kCallsPerBlock * machine.seconds_per_call;
  // A device works while the host makes the next calls; a CPU does both itself.
  seconds.other = run.cuda ? std::max(0.0, calls - seconds.total()) : calls;
  return seconds;
}

StepSeconds scaled(StepSeconds seconds, double factor) {
  for (double* part : {&seconds.products, &seconds.attention, &seconds.head, &seconds.elementwise,
                       &seconds.collectives, &seconds.other}) {
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
  }
  mean.pairs = 1;
  mean.shared = static_cast<double>(common_prompt(pairs));
  return mean;
}

TokenCounts uniform_pair(std::int64_t prompt, std::int64_t answer, std::int64_t shared) {
  const auto length = static_cast<double>(answer);
  return counts_of(static_cast<double>(prompt), length, length, static_cast<double>(shared));
}

TokenCounts micro_batch_of(const TokenCounts& pair, double count) {
  TokenCounts micro;
  const double once_only = std::max(0.0, count - 1);
  micro.pairs = count * pair.pairs;
  micro.tokens = count * pair.tokens - once_only * pair.shared;
  micro.shared = pair.shared;
  micro.answers = count * pair.answers;
  micro.seen_keys = count * pair.seen_keys - once_only * triangle(pair.shared);
  return micro;
}

double block_parameters(const ModelConfig& config) {
  return largest_part(config, 1).block_matrices;
}

double model_parameters(const ModelConfig& config) {
  const RankPart whole = largest_part(config, 1);
  return static_cast<double>(config.blocks) * (whole.block_matrices + whole.block_vectors) +
         whole.final_norm + whole.embedding + (config.tied_head ? 0 : whole.head);
}

double floor_operations(const ModelConfig& config, std::int64_t layer, double tokens,
                        double answers) {
  const auto blocks = static_cast<double>(config.blocks - 1 - layer);
  return 4 * blocks * block_parameters(config) * tokens +
         4 * static_cast<double>(config.vocabulary) * static_cast<double>(config.hidden) * answers;
}

Operations step_operations(const ModelConfig& config, std::int64_t layer,
                           const TokenCounts& micro) {
  return step_of(config, largest_part(config, 1), layer, micro);
}

Operations forward_operations(const ModelConfig& config, std::int64_t layer,
                              const TokenCounts& micro) {
  return forward_of(config, largest_part(config, 1), layer, micro);
}

Operations prefix_operations(const ModelConfig& config, std::int64_t layer,
                             const TokenCounts& pair) {
  return prefix_of(config, largest_part(config, 1), layer, pair);
}

ElementBytes element_bytes(bool bf16, bool cuda, bool emulated, bool bf16_cache) {
  ElementBytes bytes;
  bytes.block = bf16 && !emulated ? 2 : 4;
  bytes.head = bf16 && cuda ? 2 : 4;
  bytes.embedding = bf16 ? 2 : 4;
  bytes.cache = bf16_cache ? 2 : 4;
  return bytes;
}

double RankMemory::peak(bool with_cache) const {
  return program + head + std::max(prefix, suffix + activations) + (with_cache ? cache : 0);
}

RankMemory rank_memory(const ModelConfig& config, const RunShape& run) {
  const RankPart part = largest_part(config, run.tp);
  const auto d = static_cast<double>(config.hidden);
  const auto blocks = static_cast<double>(config.blocks - 1 - run.layer);
  const double block =
      part.block_matrices * run.bytes.block + part.block_vectors * kActivationBytes;
  const TokenCounts micro = micro_batch_of(run.pair, run.micro_pairs);
  const double rows = predicting_rows(micro);
  const double tokens_of_all = run.pairs * run.pair.tokens;

  RankMemory memory;
  memory.suffix = blocks * block;
  memory.head = part.head * run.bytes.head + part.final_norm * kActivationBytes;
  memory.cache = tokens_of_all * d * run.bytes.cache;
  memory.prefix = (config.tied_head ? 0 : part.embedding * run.bytes.embedding) + block +
                  tokens_of_all / static_cast<double>(run.dp) * d * kActivationBytes;
  memory.activations =
      (std::max(0.0, blocks - 1 + rows / micro.tokens) * kept_per_token(config, part) +
       working_per_token(config, part)) *
      micro.tokens * kActivationBytes;
  memory.program = kProgramBytes + (run.cuda ? kCudaContextBytes : 0);
  return memory;
}

StepSeconds micro_batch_seconds(const ModelConfig& config, const RunShape& run,
                                const MachineSpeed& machine) {
  return seconds_of(config, run, machine, micro_batch_of(run.pair, run.micro_pairs),
                    /*backward=*/true);
}

MachineSpeed typical_cpu(double operations, double copy_bytes) {
  MachineSpeed machine;
  machine.operations = operations;
  machine.copy_bytes = copy_bytes;
  machine.link_bytes = copy_bytes / 2;
  machine.link_latency = 30e-6;
  machine.product_share = 1;
  machine.attention_share = 0.1;
  machine.head_share = 0.83;
  machine.elementwise_share = 0.95;
  machine.seconds_per_call = 10e-6;
  return machine;
}

MachineSpeed typical_gpu(double operations, double copy_bytes, double link_bytes) {
  MachineSpeed machine;
  machine.operations = operations;
  machine.copy_bytes = copy_bytes;
  machine.link_bytes = link_bytes;
  machine.link_latency = 20e-6;
  machine.product_share = 0.6;
  machine.attention_share = 0.03;
  machine.head_share = 0.5;
  machine.elementwise_share = 0.5;
  machine.seconds_per_call = 8e-6;
  return machine;
}

MachineSpeed calibrated(const ModelConfig& config, const RunShape& run, MachineSpeed machine,
                        const StepSeconds& measured) {
  const auto set_share = [](double& share, double at_full_rate, double seconds) {
    if (at_full_rate > 0 && seconds > 0) {
      share = at_full_rate / seconds;
    }
  };
  MachineSpeed full = machine;
  full.product_share = full.attention_share = full.head_share = full.elementwise_share = 1;
  full.seconds_per_call = 1;
  const StepSeconds at_full_rate = micro_batch_seconds(config, run, full);
  const RankPart part = largest_part(config, run.tp);
  const Operations work =
      step_of(config, part, run.layer, micro_batch_of(run.pair, run.micro_pairs));
  set_share(machine.product_share, work.products / machine.operations, measured.products);
  set_share(machine.attention_share, at_full_rate.attention, measured.attention);
  set_share(machine.head_share, work.head / machine.operations, measured.head);
  set_share(machine.elementwise_share, at_full_rate.elementwise, measured.elementwise);
  const double calls = (static_cast<double>(config.blocks - 1 - run.layer) + 1) * kCallsPerBlock;
  machine.seconds_per_call = measured.other / calls;
  if (run.tp > 1 && measured.collectives > 0) {
    machine.link_latency = 0;
    machine.link_bytes *= at_full_rate.collectives / measured.collectives;
  }
  return machine;
}

StepSeconds step_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs) {
  const double micro_batches = std::ceil(batch_pairs / run.micro_pairs);
  return scaled(micro_batch_seconds(config, run, machine),
                std::ceil(micro_batches / static_cast<double>(run.dp)));
}

double prefix_seconds(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine) {
  const RankPart part = largest_part(config, run.tp);
  const double pairs_of_rank = std::ceil(run.pairs / static_cast<double>(run.dp));
  const auto blocks = static_cast<double>(run.layer + 1);
  const Operations prefix = prefix_of(config, part, run.layer, run.pair);
  const double weights = blocks * part.block_matrices * run.bytes.block;
  const double of_pair = roofline(prefix.products, weights, machine.product_share, machine) +
                         prefix.attention / (machine.operations * machine.attention_share) +
                         blocks * moved_per_token(config, part) / 2 * run.pair.tokens *
                             kActivationBytes / machine.copy_bytes +
                         exchange_seconds(config, run.tp, blocks, run.pair.tokens, 1, machine);
  const double calls = blocks * kCallsPerBlock / 2 * machine.seconds_per_call;
  const double computing = run.cuda ? std::max(of_pair, calls) : of_pair + calls;
  return pairs_of_rank * computing + evaluation_seconds(config, run, machine, run.pairs);
}

double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs) {
  const double groups = std::ceil(pairs / run.micro_pairs);
  return std::ceil(groups / static_cast<double>(run.dp)) *
         seconds_of(config, run, machine, micro_batch_of(run.pair, run.micro_pairs),
                    /*backward=*/false)
             .total();
}

}  // namespace bipo
