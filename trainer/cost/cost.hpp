// What a training run costs, from the sizes of model, data and machine alone: operations, bytes and
// seconds.
#pragma once

#include <cstdint>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {

// D hidden, H query heads, Hkv key/value heads, K head size, I MLP columns, V vocabulary, N blocks,
// L the steered layer.  Counts are real numbers, because they are means.

// What one pair (as the mean of a data set) or one micro-batch holds.
struct TokenCounts {
  double pairs = 0;
  double tokens = 0;     // packed: prompt, both answers without their last tokens
  double shared = 0;     // leading tokens that all pairs have in common, of one pair
  double answers = 0;    // answer tokens, which are predicted
  double seen_keys = 0;  // keys that the tokens attend to, themselves included
};

// Means over a data set, with pairs = 1; pairs must not be empty.
TokenCounts mean_pair(const std::vector<TokenPair>& pairs);

// The same for pairs that all have these lengths.
TokenCounts uniform_pair(std::int64_t prompt, std::int64_t answer, std::int64_t shared);

// `count` pairs that go through the model together and compute their shared tokens once: `tokens`
// and `seen_keys` are what is computed.
TokenCounts micro_batch_of(const TokenCounts& pair, double count);

// Parameters of a block's matrices, without norms.
double block_parameters(const ModelConfig& config);

// Parameters of the whole model; a tied head counts once.
double model_parameters(const ModelConfig& config);

// The least that a step costs, in operations: forward and activation-only backward of the blocks
// after `layer` over `tokens`, each pair's own, and the head on `answers` answer tokens.  Attention
// is not in it.
double floor_operations(const ModelConfig& config, std::int64_t layer, double tokens,
                        double answers);

// Operations by the kind of work they are.
struct Operations {
  double products = 0;
  double attention = 0;
  double head = 0;
  double total() const { return products + attention + head; }
};

// What is computed for a micro-batch in a step: in the last block only the rows that predict go
// further than being attended to.
Operations step_operations(const ModelConfig& config, std::int64_t layer, const TokenCounts& micro);

// A forward pass over the suffix: an evaluation, or the reference.
Operations forward_operations(const ModelConfig& config, std::int64_t layer,
                              const TokenCounts& micro);

// Blocks 0..layer of one pair, which goes through them by itself.
Operations prefix_operations(const ModelConfig& config, std::int64_t layer,
                             const TokenCounts& pair);

// Bytes of an element.
struct ElementBytes {
  double block = 4;  // weights of the blocks
  double head = 4;
  double embedding = 4;
  double cache = 4;  // kept activations
};

// How a model in `bf16` (or fp32) is held: on CPUs the head stays fp32, and so do the blocks where
// the processor emulates bfloat16.
ElementBytes element_bytes(bool bf16, bool cuda, bool emulated, bool bf16_cache);

// Bytes on one of `tp` ranks that share a model: of each kind the most that any of them holds.
struct RankMemory {
  double suffix = 0;       // blocks after the layer
  double head = 0;         // and final norm
  double activations = 0;  // what a micro-batch keeps for its backward pass, and its working space
  double prefix = 0;   // while the prefix pass runs: embedding, one block, all pairs' activations
  double cache = 0;    // kept activations of the node, which its ranks share; in host memory
  double program = 0;  // libraries and the device's context

  // The most that is there at one time: prefix pass and training follow one another.
  double peak(bool with_cache) const;
};

struct RunShape {
  std::int64_t layer = 0;
  std::int64_t tp = 1;
  std::int64_t dp = 1;
  bool cuda = false;
  double pairs = 0;        // training and held-out, whose prefix is kept
  TokenCounts pair;        // the mean one
  double micro_pairs = 1;  // pairs of a micro-batch
  ElementBytes bytes;
};

RankMemory rank_memory(const ModelConfig& config, const RunShape& run);

// What a machine does, per rank.  Operations per second are those of the products in the run's
// type, with all the rank's threads; shares say how much of it (or of the copy rate) a kind of work
// reaches.
struct MachineSpeed {
  double operations = 0;
  double copy_bytes = 0;  // read and written, of the memory that the model lies in
  double link_bytes = 0;  // between the ranks of a tp group
  double product_share = 1;
  double attention_share = 1;
  double head_share = 1;
  double elementwise_share = 1;
  double seconds_per_call = 0;  // of the host, for one operation on tensors
  double link_latency = 0;      // seconds, of one exchange among the ranks of a tp group
};

// With the shares that were measured with this program: on a CPU, whose `operations` are those of
// the model's own products, and on GPUs, whose `operations` are those of the data sheet.
MachineSpeed typical_cpu(double operations, double copy_bytes);
MachineSpeed typical_gpu(double operations, double copy_bytes, double link_bytes);

struct StepSeconds {
  double products = 0;
  double attention = 0;
  double head = 0;
  double elementwise = 0;
  double collectives = 0;
  double other = 0;  // the host's calls, where they are not hidden behind the device's work
  double total() const { return products + attention + head + elementwise + collectives + other; }
};

// One micro-batch, forward and backward.
StepSeconds micro_batch_seconds(const ModelConfig& config, const RunShape& run,
                                const MachineSpeed& machine);

// `machine` with the shares that explain what a micro-batch of `run` took on it.
MachineSpeed calibrated(const ModelConfig& config, const RunShape& run, MachineSpeed machine,
                        const StepSeconds& measured);

// A whole step: micro-batches are dealt to the replicas in turn.
StepSeconds step_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs);

// The pass over all pairs before the first step: prefix and reference.
double prefix_seconds(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine);

// One evaluation of `pairs` pairs at one multiplier other than 0.
double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs);

}  // namespace bipo
