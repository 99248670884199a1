#include "trainer/cost/cost.hpp"

#include <algorithm>
#include <cmath>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

// Activations are fp32 for every type of weights.
constexpr double kActivationBytes = 4;

// The host's calls of tensor operations in one block, forward and backward.
constexpr double kCallsPerBlock = 60;

// Returns 1 + 2 + ... + n.
double triangle(double n) {
  return n * (n + 1) / 2;
}

TokenCounts counts_of(double prompt, double chosen, double rejected, double shared) {
  double seen_keys = triangle(prompt);
  for (const double answer : {chosen - 1, rejected - 1}) {
    seen_keys += answer * prompt + triangle(answer);
  }
  return {1, prompt + chosen + rejected - 2, shared, chosen + rejected, seen_keys};
}

std::int64_t common_prompt(const std::vector<TokenPair>& pairs) {
  const std::vector<TokenId>& first = pairs.front().prompt;
  auto end = first.end();
  for (const TokenPair& pair : pairs) {
    end = std::mismatch(first.begin(), end, pair.prompt.begin(), pair.prompt.end()).first;
  }
  return end - first.begin();
}

// Counts the rows that predict: the prompt's last token predicts the first of both answers.
double predicting_rows(const TokenCounts& micro) {
  return micro.answers - micro.pairs;
}

// The scores again, then the gradients of weights, values, queries and keys: ten for every four of
// the forward pass.
constexpr double kAttentionBackward = 2.5;

// The largest share of each kind of work that any rank of a group has.
struct RankPart {
  double hidden;
  double head_size;
  double heads;
  double kv_heads;
  double intermediate;
  // Elements of its weights (see HeldElements).
  double block_matrices;
  double block_vectors;
  double final_norm;
  double embedding;
  double head;

  // Products of `blocks` blocks per pass over them (2 operations per parameter and token), the last
  // of which treats most rows as keys only.
  double product_operations(double blocks, const TokenCounts& micro) const {
    if (blocks <= 0) {
      return 0;
    }
    const double keys_and_values = 2 * (hidden * head_size) * kv_heads;
    return 2 * ((blocks - 1) * block_matrices * micro.tokens + keys_and_values * micro.tokens +
                (block_matrices - keys_and_values) * predicting_rows(micro));
  }

  // q k^T and its product with v: 4 H K operations per key that a query sees.
  double attention_operations(double blocks, const TokenCounts& micro) const {
    const double last = predicting_rows(micro) / micro.tokens;
    return 4 * heads * head_size * micro.seen_keys * std::max(0.0, blocks - 1 + last);
  }

  Operations forward(double blocks, const TokenCounts& micro) const {
    return {product_operations(blocks, micro), attention_operations(blocks, micro),
            2 * head * predicting_rows(micro)};
  }

  Operations step(double blocks, const TokenCounts& micro) const {
    Operations work = forward(blocks, micro);
    work.products *= 2;
    work.attention *= 1 + kAttentionBackward;
    work.head *= 2;
    return work;
  }

  Operations prefix(double blocks, const TokenCounts& pair) const {
    return {2 * blocks * block_matrices * pair.tokens,
            4 * blocks * heads * head_size * pair.seen_keys, 0};
  }

  // Elements that the backward pass of one block needs per token: the inputs of both norms (2 D)
  // and their scales, queries, keys and values before rotation, rotated queries and keys with each
  // query's normaliser, and gate and up.  Frozen weights need no input.
  double kept_per_token() const {
    return 2 * hidden + 2 + (2 * heads + 3 * kv_heads) * head_size + heads + 2 * intermediate;
  }

  // Most temporary elements per token: the gradients of gate and up with that of their product, and
  // of the residual stream before and after.
  double working_per_token() const { return 3 * intermediate + 4 * hidden; }

  // Elements per token that one block's norms, rotations, additions and SwiGLU read or write,
  // forward and backward.
  double moved_per_token() const {
    return 20 * hidden + 6 * (heads + 2 * kv_heads) * head_size + 8 * intermediate;
  }
};

// Mostly the first rank's, but a later one may straddle two groups of query heads and hold a
// key/value head more.
RankPart largest_part(const ModelConfig& config, std::int64_t tp) {
  const auto raise = [](double& most, std::int64_t count) {
    most = std::max(most, static_cast<double>(count));
  };
  RankPart largest{};
  largest.hidden = static_cast<double>(config.hidden);
  largest.head_size = static_cast<double>(config.head_size);
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

double blocks_after(const ModelConfig& config, std::int64_t layer) {
  return static_cast<double>(config.blocks - 1 - layer);
}

// libtorch, MPI and the program: measured on Linux.
constexpr double kProgramBytes = 260e6;
// A CUDA context with cuBLAS's workspace.
constexpr double kCudaContextBytes = 600e6;

// Seconds of a run on a machine, on the rank with the most work.
class RunTiming {
 public:
  RunTiming(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine)
      : run_(run),
        machine_(machine),
        part_(largest_part(config, run.tp)),
        suffix_blocks_(blocks_after(config, run.layer)) {}

  // One micro-batch, forward and perhaps backward.
  StepSeconds micro_batch(bool backward) const {
    const TokenCounts micro = micro_batch_of(run_.pair, run_.micro_pairs);
    const double directions = backward ? 2 : 1;
    const Operations work =
        backward ? part_.step(suffix_blocks_, micro) : part_.forward(suffix_blocks_, micro);
    const double block_bytes =
        directions * suffix_blocks_ * part_.block_matrices * run_.bytes.block;
    const double head_bytes = directions * part_.head * run_.bytes.head;
    StepSeconds seconds;
    seconds.products = roofline(work.products, block_bytes, machine_.product_share);
    seconds.attention = work.attention / (machine_.operations * machine_.attention_share);
    seconds.head = roofline(work.head, head_bytes, machine_.head_share);
    seconds.elementwise = directions / 2 * suffix_blocks_ * part_.moved_per_token() * micro.tokens *
                          kActivationBytes / (machine_.copy_bytes * machine_.elementwise_share);
    seconds.collectives = exchange(suffix_blocks_, micro.tokens, directions);
    const double calls =
        directions / 2 * (suffix_blocks_ + 1) * kCallsPerBlock * machine_.seconds_per_call;
    // A device works while the host makes the next calls; a CPU does both itself.
    seconds.other = run_.cuda ? std::max(0.0, calls - seconds.total()) : calls;
    return seconds;
  }

  // Blocks 0..layer of one pair.
  double prefix() const {
    const auto blocks = static_cast<double>(run_.layer + 1);
    const Operations work = part_.prefix(blocks, run_.pair);
    const double weights = blocks * part_.block_matrices * run_.bytes.block;
    const double of_pair = roofline(work.products, weights, machine_.product_share) +
                           work.attention / (machine_.operations * machine_.attention_share) +
                           blocks * part_.moved_per_token() / 2 * run_.pair.tokens *
                               kActivationBytes / machine_.copy_bytes +
                           exchange(blocks, run_.pair.tokens, 1);
    const double calls = blocks * kCallsPerBlock / 2 * machine_.seconds_per_call;
    return run_.cuda ? std::max(of_pair, calls) : of_pair + calls;
  }

 private:
  // A matrix product takes the time of its operations or of reading its weights, whichever is
  // longer.
  double roofline(double operations, double weight_bytes, double share) const {
    return std::max(operations / (machine_.operations * share), weight_bytes / machine_.copy_bytes);
  }

  // Two exchanges of the residual stream per block and direction; a ring moves each element twice
  // but for one rank's part.
  double exchange(double blocks, double tokens, double directions) const {
    if (run_.tp == 1) {
      return 0;
    }
    const auto ranks = static_cast<double>(run_.tp);
    const double bytes = tokens * part_.hidden * kActivationBytes;
    return 2 * directions * blocks *
           (machine_.link_latency + 2 * (ranks - 1) / ranks * bytes / machine_.link_bytes);
  }

  const RunShape& run_;
  const MachineSpeed& machine_;
  RankPart part_;
  double suffix_blocks_;
};

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
  const double once_only = std::max(0.0, count - 1);
  return {count * pair.pairs, count * pair.tokens - once_only * pair.shared, pair.shared,
          count * pair.answers, count * pair.seen_keys - once_only * triangle(pair.shared)};
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
  return 4 * blocks_after(config, layer) * block_parameters(config) * tokens +
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
  return largest_part(config, 1).prefix(static_cast<double>(layer + 1), pair);
}

ElementBytes element_bytes(bool bf16, bool cuda, bool emulated, bool bf16_cache) {
  const auto bytes = [](bool two) { return two ? 2.0 : 4.0; };
  return {bytes(bf16 && !emulated), bytes(bf16 && cuda), bytes(bf16), bytes(bf16_cache)};
}

double RankMemory::peak(bool with_cache) const {
  return program + head + std::max(prefix, suffix + activations) + (with_cache ? cache : 0);
}

RankMemory rank_memory(const ModelConfig& config, const RunShape& run) {
  const RankPart part = largest_part(config, run.tp);
  const double blocks = blocks_after(config, run.layer);
  const double block =
      part.block_matrices * run.bytes.block + part.block_vectors * kActivationBytes;
  const TokenCounts micro = micro_batch_of(run.pair, run.micro_pairs);
  const double rows = predicting_rows(micro);
  const double tokens_of_all = run.pairs * run.pair.tokens;

  RankMemory memory;
  memory.suffix = blocks * block;
  memory.head = part.head * run.bytes.head + part.final_norm * kActivationBytes;
  memory.cache = tokens_of_all * part.hidden * run.bytes.cache;
  memory.prefix = (config.tied_head ? 0 : part.embedding * run.bytes.embedding) + block +
                  tokens_of_all / static_cast<double>(run.dp) * part.hidden * kActivationBytes;
  memory.activations = (std::max(0.0, blocks - 1 + rows / micro.tokens) * part.kept_per_token() +
                        part.working_per_token()) *
                       micro.tokens * kActivationBytes;
  memory.program = kProgramBytes + (run.cuda ? kCudaContextBytes : 0);
  return memory;
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
          .head_share = 0.83,
          .elementwise_share = 0.95,
          .seconds_per_call = 10e-6,
          .link_latency = 30e-6};
}

MachineSpeed typical_gpu(double operations, double copy_bytes, double link_bytes) {
  return {.operations = operations,
          .copy_bytes = copy_bytes,
          .link_bytes = link_bytes,
          .product_share = 0.6,
          .attention_share = 0.03,
          .head_share = 0.5,
          .elementwise_share = 0.5,
          .seconds_per_call = 8e-6,
          .link_latency = 20e-6};
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
  const double blocks = blocks_after(config, run.layer);
  const Operations work =
      largest_part(config, run.tp).step(blocks, micro_batch_of(run.pair, run.micro_pairs));
  set_share(machine.product_share, work.products / machine.operations, measured.products);
  set_share(machine.attention_share, at_full_rate.attention, measured.attention);
  set_share(machine.head_share, work.head / machine.operations, measured.head);
  set_share(machine.elementwise_share, at_full_rate.elementwise, measured.elementwise);
  machine.seconds_per_call = measured.other / ((blocks + 1) * kCallsPerBlock);
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
  const double pairs_of_rank = std::ceil(run.pairs / static_cast<double>(run.dp));
  return pairs_of_rank * RunTiming(config, run, machine).prefix() +
         evaluation_seconds(config, run, machine, run.pairs);
}

double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs) {
  const double groups = std::ceil(pairs / run.micro_pairs);
  return std::ceil(groups / static_cast<double>(run.dp)) *
         RunTiming(config, run, machine).micro_batch(/*backward=*/false).total();
}

}  // namespace bipo
