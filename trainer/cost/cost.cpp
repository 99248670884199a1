#include "trainer/cost/cost.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

// Activations are fp32 for every type of weights.
constexpr double kActivationBytes = 4;

// The tokens of a pack of the prefix pass at least (trainer/cache).
constexpr double kTokensPerPack = 512;

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

// The products among a chunk's rows again, then six products with states for every three of the
// forward pass.
constexpr double kRecurrenceBackward = 2.2;

// Rows of a chunk of the recurrence (trainer/model/operators), if sequences are long enough.
constexpr double kChunkRows = 64;

// The largest share of one block that any rank of a group has.
struct BlockPart {
  double hidden;
  double head_size;
  double heads;
  double kv_heads;
  double intermediate;
  bool values_are_keys;
  bool query_key_norms;
  bool output_norms;
  bool is_gated;  // attention with gates
  bool gated_mlp;
  // A recurrent block has no attention but, 0 elsewhere, the sizes of a head, columns of all
  // queries (and of all keys), and of all values.
  double key_size;
  double value_size;
  double delta_keys;
  double delta_values;
  // Elements of its weights (see BlockElements).
  double matrices;
  double vectors;

  // 2 operations per parameter and token.
  double product_operations(const TokenCounts& micro) const { return 2 * matrices * micro.tokens; }

  // The same for the last block, which treats most rows as keys only.
  double product_operations_as_last(const TokenCounts& micro) const {
    const double products = values_are_keys ? 1 : 2;
    const double of_every_row = is_recurrent() ? hidden * (2 * delta_keys + delta_values)
                                               : products * (hidden * head_size) * kv_heads;
    return 2 * (of_every_row * micro.tokens + (matrices - of_every_row) * predicting_rows(micro));
  }

  bool is_recurrent() const { return value_size > 0; }

  // Elements for each of the I columns: those that the activation takes, gate and up or up alone,
  // and those that it reads or writes, forward and backward.
  double mlp_inputs() const { return gated_mlp ? 2 : 1; }
  double mlp_moves() const { return gated_mlp ? 8 : 5; }

  // Every token and head of values takes part in three products with the state, and those with the
  // other rows of its chunk, whose queries and keys the heads of values share.
  double recurrence_operations(const TokenCounts& micro) const {
    if (!is_recurrent()) {
      return 0;
    }
    const double heads_of_values = delta_values / value_size;
    return micro.tokens *
           (heads_of_values * (6 * key_size * value_size + 3 * kChunkRows * value_size) +
            4 * kChunkRows * delta_keys);
  }

  // q k^T and its product with v: 4 H K operations per key that a query sees.
  double attention_operations(const TokenCounts& micro) const {
    return 4 * heads * head_size * micro.seen_keys;
  }

  // Elements that the backward pass needs per token: the inputs of both norms (2 D) and their
  // scales, queries, keys and values before rotation, rotated queries and keys with each query's
  // normaliser, and gate and up.  Norms of heads, and of what attention and MLP add, keep their
  // inputs too; gates their attention's result and themselves.  Frozen weights need no input.  A
  // recurrent block keeps its products' results, the mixed columns, the corrections, the states of
  // its chunks and what the gates' norm takes.
  double kept_per_token() const {
    if (is_recurrent()) {
      const double columns = 2 * delta_keys + delta_values;
      return 2 * hidden + 2 + 2 * columns + 5 * delta_values +
             delta_values * key_size / kChunkRows + mlp_inputs() * intermediate;
    }
    const double products = (heads + (values_are_keys ? 1 : 2) * kv_heads) * head_size;
    return 2 * hidden + 2 + (2 * heads + 3 * kv_heads) * head_size + heads +
           mlp_inputs() * intermediate + (query_key_norms ? products : 0) +
           (output_norms ? 2 * hidden : 0) + (is_gated ? 3 * heads * head_size : 0);
  }

  // Most temporary elements per token: the gradients of gate and up with that of their product, and
  // of the residual stream before and after.
  double working_per_token() const { return (mlp_inputs() + 1) * intermediate + 4 * hidden; }

  // Elements per token that its norms, rotations, additions and SwiGLU read or write, forward and
  // backward.
  double moved_per_token() const {
    if (is_recurrent()) {
      return 20 * hidden + 20 * delta_values + mlp_moves() * intermediate;
    }
    return (is_gated ? 10 * heads * head_size : 0) + 20 * hidden +
           6 * (heads + 2 * kv_heads) * head_size + mlp_moves() * intermediate;
  }

  double bytes(const ElementBytes& element) const {
    return matrices * element.block + vectors * kActivationBytes;
  }
};

// The largest share of each kind of work that any rank of a group has.
struct RankPart {
  double hidden;
  std::vector<BlockPart> blocks;  // [N]
  // Elements of its weights (see OuterElements).
  double vectors;
  double embedding;
  double head;

  // Returns the sum of of_block(part of the block) over `range`.
  template <class Quantity>
  double sum(Range range, const Quantity& of_block) const {
    double total = 0;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      total += of_block(blocks[static_cast<std::size_t>(i)]);
    }
    return total;
  }

  // Returns the largest of_block(part of the block) in `range`, 0 if that is empty.
  template <class Quantity>
  double most(Range range, const Quantity& of_block) const {
    double most = 0;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      most = std::max(most, of_block(blocks[static_cast<std::size_t>(i)]));
    }
    return most;
  }

  double matrices(Range range) const {
    return sum(range, [](const BlockPart& block) { return block.matrices; });
  }

  double moved_per_token(Range range) const {
    return sum(range, [](const BlockPart& block) { return block.moved_per_token(); });
  }

  // `suffix` ends with the last block.
  Operations forward(Range suffix, const TokenCounts& micro) const {
    Operations work{0, 0, 2 * head * predicting_rows(micro)};
    if (suffix.size() == 0) {
      return work;
    }
    const Range before_last = {suffix.begin, suffix.end - 1};
    const BlockPart& last = blocks.back();
    work.products =
        sum(before_last, [&](const BlockPart& b) { return b.product_operations(micro); }) +
        last.product_operations_as_last(micro);
    work.recurrence =
        sum(suffix, [&](const BlockPart& b) { return b.recurrence_operations(micro); });
    work.attention =
        sum(before_last, [&](const BlockPart& b) { return b.attention_operations(micro); }) +
        last.attention_operations(micro) * (predicting_rows(micro) / micro.tokens);
    return work;
  }

  Operations step(Range suffix, const TokenCounts& micro) const {
    Operations work = forward(suffix, micro);
    work.products *= 2;
    work.attention *= 1 + kAttentionBackward;
    work.recurrence *= 1 + kRecurrenceBackward;
    work.head *= 2;
    return work;
  }

  Operations prefix(Range range, const TokenCounts& pair) const {
    return {sum(range, [&](const BlockPart& b) { return b.product_operations(pair); }),
            sum(range, [&](const BlockPart& b) { return b.attention_operations(pair); }), 0,
            sum(range, [&](const BlockPart& b) { return b.recurrence_operations(pair); })};
  }

  // Elements that the backward pass of the suffix needs, and its most temporary ones.
  double activations(Range suffix, const TokenCounts& micro) const {
    if (suffix.size() == 0) {
      return blocks.back().working_per_token() * micro.tokens;
    }
    const auto kept = [](const BlockPart& block) { return block.kept_per_token(); };
    const double rows = predicting_rows(micro);
    return (sum({suffix.begin, suffix.end - 1}, kept) +
            kept(blocks.back()) * (rows / micro.tokens) +
            most(suffix, [](const BlockPart& block) { return block.working_per_token(); })) *
           micro.tokens;
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
  largest.blocks.resize(static_cast<std::size_t>(config.blocks));
  for (std::int64_t rank = 0; rank < tp; ++rank) {
    const ShardPlan plan = plan_shard(config, tp, rank);
    for (std::int64_t i = 0; i < config.blocks; ++i) {
      const AttentionKind& kind = attention_of(config, i);
      const BlockElements held = block_elements(config, plan, i);
      BlockPart& block = largest.blocks[static_cast<std::size_t>(i)];
      block.hidden = largest.hidden;
      block.head_size = static_cast<double>(head_size_of(config, kind));
      block.values_are_keys = kind.values_are_keys;
      block.query_key_norms = config.query_key_norms != QueryKeyNorms::kNone;
      block.output_norms = config.output_norms;
      block.gated_mlp = config.gated_mlp;
      block.is_gated = config.gated_attention && !kind.is_recurrent;
      if (kind.is_recurrent) {
        const DeltaNetSizes& delta = config.delta_net.value();
        block.key_size = static_cast<double>(delta.key_size);
        block.value_size = static_cast<double>(delta.value_size);
        raise(block.delta_keys, delta_key_part(delta, plan).size() * delta.key_size);
        raise(block.delta_values, plan.delta_values.size() * delta.value_size);
      } else {
        raise(block.heads, plan.heads.size());
        raise(block.kv_heads, kv_part(config, plan, kind).size());
      }
      raise(block.intermediate, plan.intermediate.size());
      raise(block.matrices, held.matrices);
      raise(block.vectors, held.vectors);
    }
    const OuterElements held = outer_elements(config, plan);
    raise(largest.vectors, held.vectors);
    raise(largest.embedding, held.embedding);
    raise(largest.head, held.head);
  }
  return largest;
}

Range blocks_after(const ModelConfig& config, std::int64_t layer) {
  return {layer + 1, config.blocks};
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

// Seconds of a run on a machine, on the rank with the most work.
class RunTiming {
 public:
  RunTiming(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine)
      : run_(run),
        machine_(machine),
        part_(largest_part(config, run.tp)),
        suffix_(blocks_after(config, run.layer)) {}

  // One micro-batch, forward and perhaps backward.
  StepSeconds micro_batch(bool backward) const {
    return micro_batch(micro_batch_of(run_.pair, run_.micro_pairs), backward);
  }

  StepSeconds micro_batch(const TokenCounts& micro, bool backward) const {
    const double directions = backward ? 2 : 1;
    const Operations work = backward ? part_.step(suffix_, micro) : part_.forward(suffix_, micro);
    const double block_bytes = directions * part_.matrices(suffix_) * run_.bytes.block;
    const double head_bytes = directions * part_.head * run_.bytes.head;
    StepSeconds seconds;
    seconds.products = roofline(work.products, block_bytes, machine_.product_share);
    seconds.attention = work.attention / (machine_.operations * machine_.attention_share);
    seconds.recurrence = work.recurrence / (machine_.operations * machine_.recurrence_share);
    seconds.head = roofline(work.head, head_bytes, machine_.head_share);
    seconds.elementwise = directions / 2 * part_.moved_per_token(suffix_) * micro.tokens *
                          kActivationBytes / (machine_.copy_bytes * machine_.elementwise_share);
    seconds.collectives = exchange(suffix_, micro.tokens, directions);
    const double calls =
        directions / 2 * (count(suffix_) + 1) * kCallsPerBlock * machine_.seconds_per_call;
    // A device works while the host makes the next calls; a CPU does both itself.
    seconds.other = run_.cuda ? std::max(0.0, calls - seconds.total()) : calls;
    return seconds;
  }

  // Prefix and reference of `pairs` pairs in one pack.
  double pass(double pairs) const {
    const Range blocks = {0, run_.layer + 1};
    const TokenCounts pack = micro_batch_of(run_.pair, pairs);
    const Operations work = part_.prefix(blocks, pack);
    const double weights = part_.matrices(blocks) * run_.bytes.block;
    const double of_pack =
        roofline(work.products, weights, machine_.product_share) +
        work.attention / (machine_.operations * machine_.attention_share) +
        part_.moved_per_token(blocks) / 2 * pack.tokens * kActivationBytes / machine_.copy_bytes +
        exchange(blocks, pack.tokens, 1);
    const double calls = count(blocks) * kCallsPerBlock / 2 * machine_.seconds_per_call;
    return (run_.cuda ? std::max(of_pack, calls) : of_pack + calls) +
           micro_batch(pack, /*backward=*/false).total();
  }

 private:
  static double count(Range blocks) { return static_cast<double>(blocks.size()); }

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
    return 2 * directions * count(blocks) *
           (machine_.link_latency + 2 * (ranks - 1) / ranks * bytes / machine_.link_bytes);
  }

  const RunShape& run_;
  const MachineSpeed& machine_;
  RankPart part_;
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

double block_parameters(const ModelConfig& config, std::int64_t block) {
  return static_cast<double>(block_elements(config, plan_shard(config, 1, 0), block).matrices);
}

double model_parameters(const ModelConfig& config) {
  const RankPart whole = largest_part(config, 1);
  return whole.sum({0, config.blocks},
                   [](const BlockPart& block) { return block.matrices + block.vectors; }) +
         whole.vectors + whole.embedding + (config.tied_head ? 0 : whole.head);
}

double floor_operations(const ModelConfig& config, std::int64_t layer, double tokens,
                        double answers) {
  return 4 * largest_part(config, 1).matrices(blocks_after(config, layer)) * tokens +
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
  return program + data + head + std::max(prefix, suffix + activations) + (with_cache ? cache : 0);
}

RankMemory rank_memory(const ModelConfig& config, const RunShape& run) {
  const RankPart part = largest_part(config, run.tp);
  const Range suffix = blocks_after(config, run.layer);
  const auto bytes = [&](const BlockPart& block) { return block.bytes(run.bytes); };
  const TokenCounts micro = micro_batch_of(run.pair, run.micro_pairs);
  const double tokens_of_all = run.pairs * run.pair.tokens;

  RankMemory memory;
  memory.suffix = part.sum(suffix, bytes);
  memory.head = part.head * run.bytes.head + part.vectors * kActivationBytes;
  memory.cache = tokens_of_all * part.hidden * run.bytes.cache;
  // Blocks stay from the layer on.  Either those before it are loaded one at a time, for all pairs,
  // or all are loaded at once, for one pair after the other.
  const Range below = {0, run.layer};
  const double lower = part.sum(below, bytes);
  const double steered = bytes(part.blocks[static_cast<std::size_t>(run.layer)]);
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
  memory.activations = part.activations(suffix, micro) * kActivationBytes;
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
          .recurrence_share = 0.2,
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
          .recurrence_share = 0.03,
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
  full.product_share = full.attention_share = full.recurrence_share = full.head_share =
      full.elementwise_share = 1;
  full.seconds_per_call = 1;
  const StepSeconds at_full_rate = micro_batch_seconds(config, run, full);
  const Range blocks = blocks_after(config, run.layer);
  const Operations work =
      largest_part(config, run.tp).step(blocks, micro_batch_of(run.pair, run.micro_pairs));
  set_share(machine.product_share, work.products / machine.operations, measured.products);
  set_share(machine.attention_share, at_full_rate.attention, measured.attention);
  set_share(machine.recurrence_share, at_full_rate.recurrence, measured.recurrence);
  set_share(machine.head_share, work.head / machine.operations, measured.head);
  set_share(machine.elementwise_share, at_full_rate.elementwise, measured.elementwise);
  machine.seconds_per_call =
      measured.other / ((static_cast<double>(blocks.size()) + 1) * kCallsPerBlock);
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
  const double in_a_pack =
      run.packs_prefix ? std::min(pairs_of_rank, std::ceil(kTokensPerPack / run.pair.tokens)) : 1;
  return pairs_of_rank / in_a_pack * RunTiming(config, run, machine).pass(in_a_pack);
}

double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs) {
  const double groups = std::ceil(pairs / run.micro_pairs);
  return std::ceil(groups / static_cast<double>(run.dp)) *
         RunTiming(config, run, machine).micro_batch(/*backward=*/false).total();
}

}  // namespace bipo
