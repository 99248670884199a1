// Predicts the cost of a training run from the sizes of model, data and machine alone: operations,
// bytes and seconds.
#pragma once

#include <cstdint>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {

// D hidden, H query heads, Hkv key/value heads, K head size, I MLP columns, V vocabulary, N blocks,
// L the steered layer.  Counts are real numbers, because they are means.

// Sizes of one pair (the mean of a data set) or of one micro-batch.
struct TokenCounts {
  double pairs = 0;
  double tokens = 0;     // packed: prompt, both answers without their last tokens
  double shared = 0;     // leading tokens that all pairs have in common
  double answers = 0;    // answer tokens, which are predicted
  double seen_keys = 0;  // keys that the tokens attend to, themselves included
  // Tokens of the data set's longest: a device pads every part of a pair to the longest beside it.
  double longest_prompt = 0;
  double longest_answer = 0;
};

// Returns the means over a data set, with pairs = 1; `pairs` must not be empty.
TokenCounts mean_pair(const std::vector<TokenPair>& pairs);

// Returns the same for pairs that all have these lengths.
TokenCounts uniform_pair(std::int64_t prompt, std::int64_t answer, std::int64_t shared);

// Returns the sizes of `count` pairs that go through the model together, under `ways` of steering
// (signs, factors, vectors), and compute their shared tokens once for each way: `tokens` and
// `seen_keys` count what is computed.
TokenCounts micro_batch_of(const TokenCounts& pair, double count, double ways = 1);

// Count the parameters of a block's matrices, without norms, and of the whole model; a tied head
// counts once.
double block_parameters(const ModelConfig& config, std::int64_t block);
double model_parameters(const ModelConfig& config);

// Kernels of a block on an accelerator, our own where there are some; --kernels composed runs more.
// `flash`: a block that allows it runs flash attention.
struct DeviceKernels {
  double forward = 0;
  double backward = 0;
};
DeviceKernels block_kernels(const ModelConfig& config, std::int64_t block, bool bf16, bool flash);

// Returns the least operations of a step: forward and activation-only backward of the blocks after
// `layer` over `tokens`, each pair's own, and the head on `answers` answer tokens; no attention.
// Where the MLP of `layer` is steered, its block's forward too, which has no backward.
double floor_operations(const ModelConfig& config, std::int64_t layer, double tokens,
                        double answers, Site site = Site::kBlock);

// Operations by kind of work.
struct Operations {
  double products = 0;
  double attention = 0;
  double head = 0;
  double recurrence = 0;
  double total() const { return products + attention + head + recurrence; }
};

// Count the operations of a micro-batch in a step and in a forward pass over the suffix (an
// evaluation, or the reference); in the last block most rows are attended to only.
Operations step_operations(const ModelConfig& config, std::int64_t layer, const TokenCounts& micro);
Operations forward_operations(const ModelConfig& config, std::int64_t layer,
                              const TokenCounts& micro);

// Counts the operations of blocks 0..layer for one pair by itself.
Operations prefix_operations(const ModelConfig& config, std::int64_t layer,
                             const TokenCounts& pair);

// Bytes of an element.
struct ElementBytes {
  double block = 4;  // weights of the blocks
  double head = 4;
  double embedding = 4;
  double cache = 4;  // kept activations
};

// Returns the storage of a model in `bf16` or fp32: the blocks stay fp32 where the processor
// emulates bfloat16, the head where it multiplies no bfloat16 tiles.
ElementBytes element_bytes(bool bf16, bool emulated, bool float_head, bool bf16_cache);

// Bytes on one of the tp ranks that share a model: for each kind the most that any of them holds.
struct RankMemory {
  double suffix = 0;       // blocks that do not belong to the prefix
  double head = 0;         // and final norm
  double activations = 0;  // a micro-batch's, kept for its backward pass, and its working space
  double graphs = 0;   // what recorded micro-batches keep beside the activations of one that runs
  double prefix = 0;   // while the prefix pass runs: embedding, blocks, pairs under way
  double data = 0;     // tokens of all pairs and what belongs to each; in host memory
  double cache = 0;    // kept activations of the node, which its ranks share; in host memory
  double program = 0;  // libraries and the device's context

  // The most at one time: training follows the prefix pass.
  double peak(bool with_cache) const;
};

struct RunShape {
  std::int64_t layer = 0;
  Site site = Site::kBlock;  // with kMlp, the layer's block runs forward in every pass
  std::int64_t tp = 1;
  std::int64_t dp = 1;
  std::int64_t ranks_per_node = 0;  // 0: all are on one node
  bool cuda = false;
  bool flash = false;            // there, blocks that allow it run flash attention
  bool graphs = false;           // there, micro-batches are filled up, recorded and replayed
  double device_bytes = 0;       // memory of an accelerator; 0: not known, and on a CPU
  double pairs = 0;              // training and held-out pairs, whose prefix is kept
  double without_reference = 0;  // pairs among them that the prefix pass ends for at the layer
  TokenCounts pair;              // the mean pair
  double micro_pairs = 1;        // pairs of a micro-batch, each as often as it is steered
  double ways = 1;               // in which they are: those of one way share tokens
  bool packs_prefix = false;     // the pass packs pairs together, else it takes one at a time
  ElementBytes bytes;
};

RankMemory rank_memory(const ModelConfig& config, const RunShape& run);

// Returns whether micro-batches can be recorded as graphs: not on CPUs, over several ranks of tp,
// or with recurrent blocks.
bool can_have_graphs(const ModelConfig& config, const RunShape& run);

// Returns whether recording a run's micro-batches as graphs is worth the rows that fill them up:
// whether, at an H100's typical rates, the host needs half as long to ask for the work on one as
// the device for the work, or longer.  The margin is for hosts that are slower by a factor of two.
// A function of model and micro-batch alone, so that runs repeat on any GPU.  False where work
// cannot be recorded.
bool graphs_pay(const ModelConfig& config, const RunShape& run);

// A machine's rates per rank and second.
struct MachineSpeed {
  double operations = 0;  // of products in the run's type, with all the rank's threads
  double copy_bytes = 0;  // read and written, in the memory that holds the model
  double link_bytes = 0;  // between the ranks of a tp group
  // Shares of the operations (or of the copy rate) that each kind of work reaches.
  double product_share = 1;
  double attention_share = 1;
  double recurrence_share = 1;
  double head_share = 1;
  double elementwise_share = 1;
  double seconds_per_call = 0;  // of the host, for one operation on tensors
  double link_latency = 0;      // seconds, of one exchange among the ranks of a tp group
  double network_bytes = 0;     // per rank and second, between nodes; 0: as link_bytes
  double network_latency = 0;   // seconds, of one message between nodes
};

// Return a machine with the shares that this program was measured to reach: on a CPU, whose
// `operations` are those of the model's own products, and on GPUs, whose `operations` are those of
// the data sheet.
MachineSpeed typical_cpu(double operations, double copy_bytes);
MachineSpeed typical_gpu(double operations, double copy_bytes, double link_bytes);

struct StepSeconds {
  double products = 0;
  double attention = 0;
  double recurrence = 0;
  double head = 0;
  double elementwise = 0;
  double collectives = 0;
  double other = 0;      // the host's calls that the device's work does not hide
  double reduction = 0;  // over all ranks, once in a step: gradient, figures, agreement
  double total() const {
    return products + attention + recurrence + head + elementwise + collectives + other + reduction;
  }
};

// Predicts one micro-batch, forward and backward.
StepSeconds micro_batch_seconds(const ModelConfig& config, const RunShape& run,
                                const MachineSpeed& machine);

// Returns `machine` with the shares that explain the `measured` seconds of a micro-batch of `run`.
MachineSpeed calibrated(const ModelConfig& config, const RunShape& run, MachineSpeed machine,
                        const StepSeconds& measured);

// Predicts what the ranks exchange once in a step of `batch_pairs` pairs: the gradient with its
// extent, the pairs' figures, and whether to stop.
double reduction_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs);

// Predicts a whole step: micro-batches are dealt to the replicas in turn.
StepSeconds step_seconds(const ModelConfig& config, const RunShape& run,
                         const MachineSpeed& machine, double batch_pairs);

// Predicts the pass over all pairs before the first step: prefix and, of those that need it,
// reference.
double prefix_seconds(const ModelConfig& config, const RunShape& run, const MachineSpeed& machine);

// Predicts one evaluation of `pairs` pairs at one multiplier other than 0.
double evaluation_seconds(const ModelConfig& config, const RunShape& run,
                          const MachineSpeed& machine, double pairs);

}  // namespace bipo
