// The cost model against counts done by hand and against brute force over tokens and keys.
#include "trainer/cost/cost.hpp"

#include <gtest/gtest.h>

#include "datasets/batches/batch_plan.hpp"
#include "trainer/cost/micro_batch_memory.hpp"
#include "trainer/model/architecture/shapes.hpp"

namespace bipo {
namespace {

// D 8, 3 blocks, 4 query heads on 2 key/value heads of size 2, 6 MLP columns, 10 words.
ModelConfig small_model() {
  ModelConfig config;
  config.hidden = 8;
  config.blocks = 3;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_size = 2;
  config.intermediate = 6;
  config.vocabulary = 10;
  config.tied_head = false;
  return config;
}

// q 8x8, k and v 4x8, output 8x8, gate, up and down 6x8 each.
constexpr double kSmallBlock = 64 + 32 + 32 + 64 + 3 * 48;

TokenPair pair_of(std::size_t prompt, std::size_t chosen, std::size_t rejected, TokenId last = 7) {
  TokenPair pair;
  pair.prompt.assign(prompt, 5);
  pair.prompt.back() = last;
  pair.chosen.assign(chosen, 1);
  pair.rejected.assign(rejected, 2);
  return pair;
}

// Keys seen by each token of [prompt | chosen | rejected], counted one by one.
double seen_keys(std::size_t prompt, std::size_t chosen, std::size_t rejected) {
  double seen = 0;
  for (std::size_t i = 0; i < prompt; ++i) {
    seen += static_cast<double>(i + 1);
  }
  for (const std::size_t answer : {chosen, rejected}) {
    for (std::size_t i = 0; i + 1 < answer; ++i) {
      seen += static_cast<double>(prompt + i + 1);
    }
  }
  return seen;
}

TEST(TokenCounts, MeanOfADataSet) {
  const TokenCounts mean = mean_pair({pair_of(5, 3, 2, 7), pair_of(7, 1, 4, 8)});
  EXPECT_DOUBLE_EQ(mean.tokens, (5 + 2 + 1 + 7 + 0 + 3) / 2.0);
  EXPECT_DOUBLE_EQ(mean.answers, 5);
  EXPECT_DOUBLE_EQ(mean.seen_keys, (seen_keys(5, 3, 2) + seen_keys(7, 1, 4)) / 2);
  // The first prompt is 5 5 5 5 7, the other 5 5 5 5 5 5 8.
  EXPECT_DOUBLE_EQ(mean.shared, 4);
}

TEST(TokenCounts, UniformPairsEqualAnyOfThem) {
  const TokenCounts uniform = uniform_pair(5, 3, 4);
  const TokenCounts counted = mean_pair({pair_of(5, 3, 3), pair_of(5, 3, 3, 9)});
  EXPECT_DOUBLE_EQ(uniform.tokens, counted.tokens);
  EXPECT_DOUBLE_EQ(uniform.answers, counted.answers);
  EXPECT_DOUBLE_EQ(uniform.seen_keys, counted.seen_keys);
  EXPECT_DOUBLE_EQ(uniform.shared, counted.shared);
}

TEST(TokenCounts, AMicroBatchComputesSharedTokensOnce) {
  const TokenCounts micro = micro_batch_of(uniform_pair(5, 3, 4), 3);
  // 4 shared tokens, then for each pair the rest of its prompt and two answers of 2.
  EXPECT_DOUBLE_EQ(micro.tokens, 4 + 3 * (1 + 2 + 2));
  EXPECT_DOUBLE_EQ(micro.answers, 18);
  EXPECT_DOUBLE_EQ(micro.pairs, 3);
  // 1 + 2 + 3 + 4 for the shared ones; 5 for the prompt's last; 6 and 7 for each answer.
  EXPECT_DOUBLE_EQ(micro.seen_keys, 10 + 3 * (5 + 2 * (6 + 7)));
}

TEST(Parameters, OfASmallModel) {
  EXPECT_DOUBLE_EQ(block_parameters(small_model(), 0), kSmallBlock);
  EXPECT_DOUBLE_EQ(model_parameters(small_model()), 3 * (kSmallBlock + 16) + 8 + 2 * 80);
}

TEST(Operations, TheFloorIsFourPerParameterAndToken) {
  // One block after layer 1; head 10 x 8.
  EXPECT_DOUBLE_EQ(floor_operations(small_model(), 1, 100, 7), 4 * kSmallBlock * 100 + 4 * 80 * 7);
  EXPECT_DOUBLE_EQ(floor_operations(small_model(), 2, 100, 7), 4 * 80 * 7);
}

// At the MLP of a block its products run forward in every pass, and not backward.
TEST(Operations, TheFloorAtAnMlpHasItsBlockForward) {
  EXPECT_DOUBLE_EQ(floor_operations(small_model(), 1, 100, 7, Site::kMlp),
                   (4 + 2) * kSmallBlock * 100 + 4 * 80 * 7);
}

TEST(Operations, OfAStepCountEveryProduct) {
  const TokenCounts micro = micro_batch_of(uniform_pair(5, 3, 4), 3);  // 19 tokens, 15 predict
  const Operations step = step_operations(small_model(), 0, micro);
  // Block 1 on all tokens; in block 2 keys and values of all, the rest of those that predict.
  EXPECT_DOUBLE_EQ(step.products, 4 * (kSmallBlock * 19 + 64 * 19 + (kSmallBlock - 64) * 15));
  EXPECT_DOUBLE_EQ(step.head, 4 * 80 * 15);
  // 4 heads of size 2: two operations per element in each of two products forward and five
  // backward; the last block's queries are taken to see as many keys as the mean one.
  EXPECT_NEAR(step.attention, 14 * 4 * 2 * micro.seen_keys * (1 + 15.0 / 19), 1e-6);
  const Operations forward = forward_operations(small_model(), 0, micro);
  EXPECT_DOUBLE_EQ(forward.products, step.products / 2);
  EXPECT_DOUBLE_EQ(forward.head, step.head / 2);
}

TEST(Operations, LastLayerLeavesTheHeadOnly) {
  const Operations step = step_operations(small_model(), 2, uniform_pair(5, 3, 0));
  EXPECT_DOUBLE_EQ(step.products, 0);
  EXPECT_DOUBLE_EQ(step.attention, 0);
  EXPECT_DOUBLE_EQ(step.head, 4 * 80 * 5);
}

TEST(Operations, OfThePrefixAreForwardOnly) {
  const TokenCounts pair = uniform_pair(5, 3, 0);
  const Operations prefix = prefix_operations(small_model(), 1, pair);
  EXPECT_DOUBLE_EQ(prefix.products, 2 * 2 * kSmallBlock * 9);
  EXPECT_DOUBLE_EQ(prefix.attention, 2 * 4 * 4 * 2 * seen_keys(5, 3, 3));
  EXPECT_DOUBLE_EQ(prefix.head, 0);
}

TEST(Operations, CountEachBlocksOwnHeads) {
  // The last block has heads of 4 and one key/value head, whose keys are its values.
  ModelConfig config = small_model();
  config.attention_kinds = {{}, {.head_size = 4, .kv_heads = 1, .values_are_keys = true}};
  config.kind_of_block = {0, 0, 1};
  constexpr double kLast = 8 * 16 + 8 * 4 + 16 * 8 + 3 * 48;
  EXPECT_DOUBLE_EQ(block_parameters(config, 2), kLast);
  EXPECT_DOUBLE_EQ(model_parameters(config), 2 * kSmallBlock + kLast + 3 * 16 + 8 + 2 * 80);
  const TokenCounts micro = micro_batch_of(uniform_pair(5, 3, 4), 3);  // 19 tokens, 15 predict
  const Operations step = step_operations(config, 0, micro);
  EXPECT_DOUBLE_EQ(step.products, 4 * (kSmallBlock * 19 + 8 * 4 * 19 + (kLast - 8 * 4) * 15));
  EXPECT_NEAR(step.attention, 14 * 4 * micro.seen_keys * (2 + 4 * 15.0 / 19), 1e-6);
  RunShape run;
  run.pairs = 10;
  run.pair = uniform_pair(5, 3, 0);
  run.micro_pairs = 2;
  EXPECT_DOUBLE_EQ(rank_memory(config, run).suffix, (kSmallBlock + kLast) * 4 + 2 * 2 * 8 * 4);
}

RunShape small_run() {
  RunShape run;
  run.layer = 0;
  run.pairs = 10;
  run.pair = uniform_pair(5, 3, 0);
  run.micro_pairs = 2;
  return run;
}

TEST(Memory, OfOneRank) {
  const RankMemory memory = rank_memory(small_model(), small_run());
  EXPECT_DOUBLE_EQ(memory.suffix, 2 * (kSmallBlock * 4 + 2 * 8 * 4));
  EXPECT_DOUBLE_EQ(memory.head, 80 * 4 + 8 * 4);
  EXPECT_DOUBLE_EQ(memory.cache, 10 * 9 * 8 * 4);
  // The embedding and all blocks: none lies below the layer, so they are loaded at once.
  EXPECT_DOUBLE_EQ(memory.prefix, 80 * 4 + 3 * (kSmallBlock * 4 + 2 * 8 * 4));
  // Per token: both norms' inputs 16 and scales 2, qkv 16, rotated queries and keys 12, normalisers
  // 4, gate and up 12; the last block for 10 rows of 18; then 3 x 6 + 4 x 8 at work.
  EXPECT_DOUBLE_EQ(memory.activations, ((1 + 10.0 / 18) * 62 + 50) * 18 * 4);
  // Norms of heads keep the 16 of qkv, those of what a block adds 2 x 8.
  ModelConfig normed = small_model();
  normed.query_key_norms = QueryKeyNorms::kByHead;
  normed.output_norms = true;
  EXPECT_DOUBLE_EQ(rank_memory(normed, small_run()).activations,
                   ((1 + 10.0 / 18) * (62 + 16 + 16) + 50) * 18 * 4);
}

TEST(Memory, AtAnMlpItsBlockStays) {
  RunShape run = small_run();
  run.site = Site::kMlp;  // of the first block: no block is the prefix's
  const RankMemory memory = rank_memory(small_model(), run);
  EXPECT_DOUBLE_EQ(memory.suffix, 3 * (kSmallBlock * 4 + 2 * 8 * 4));
  EXPECT_DOUBLE_EQ(memory.prefix, 80 * 4 + 3 * (kSmallBlock * 4 + 2 * 8 * 4));
  EXPECT_DOUBLE_EQ(memory.cache, 10 * 9 * 8 * 4);
  EXPECT_DOUBLE_EQ(memory.activations, rank_memory(small_model(), small_run()).activations);
}

// 18 tokens of hidden size 8.
TEST(Memory, AtAnMlpANormBehindItKeepsItsInput) {
  ModelConfig normed = small_model();
  normed.output_norms = true;
  for (const bool cuda : {false, true}) {
    RunShape run = small_run();
    run.cuda = cuda;
    const double at_block = rank_memory(normed, run).activations;
    run.site = Site::kMlp;
    EXPECT_NEAR(rank_memory(normed, run).activations, at_block + 18 * (8 + 1) * 4, 1e-6) << cuda;
  }
}

// Gate, up and their product, and the residual stream twice; no block has a backward pass.
TEST(Memory, AtTheLastMlpItsBlockRunsForward) {
  ModelConfig wide = small_model();
  wide.intermediate = 1000;
  RunShape run = small_run();
  run.layer = 2;
  run.cuda = true;
  const double forward = 18 * (3 * 1000 + 2 * 8) * 4;
  EXPECT_LT(rank_memory(wide, run).activations, forward);
  run.site = Site::kMlp;
  EXPECT_DOUBLE_EQ(rank_memory(wide, run).activations, forward);
}

TEST(Memory, OfActivationsOnADevice) {
  RunShape run = small_run();
  run.cuda = true;
  // 2 pairs: 18 tokens, 10 of which predict 12.  6 spans of at most 5 queries and 7 keys are 30 and
  // 42 slots; of those that predict, 2 and 7 are 12 and 42.  Indices are two elements, a row of a
  // mask is 16.
  constexpr double kTables = 2 * (3 * 30 + 42 + 18 + 38 + 2 * 18 + 1) + 30 * 16 + 3 * 18 * 2;
  constexpr double kTablesOfAnswers =
      2 * (3 * 12 + 42 + 10 + 38 + 2 * 18 + 1) + 12 * 16 + 3 * 10 * 2;
  constexpr double kBatch = 18 * (2 + 1 + 2) + 2 * 2 * 12 + 2 * 10 + 18 * 8;
  // Norms' inputs and scales, queries and results in slots with normalisers, keys and values for
  // four heads; gate and up.
  constexpr double kBlock = 18 * 9 + 30 * 8 * 2 + 4 * 30 + 2 * 42 * 8 + 18 * 9 + 18 * 12;
  constexpr double kLast = 18 * 9 + 12 * 8 * 2 + 4 * 12 + 2 * 42 * 8;
  // When the last block's attention is differentiated, its MLP is done: gradients of the stream,
  // of queries and results, of keys and values.
  constexpr double kWorking = 10 * 8 + 2 * 12 * 8 + 2 * 42 * 8;
  EXPECT_DOUBLE_EQ(rank_memory(small_model(), run).activations,
                   4 * (kTables + kTablesOfAnswers + kBatch + kBlock + kLast + kWorking));
}

TEST(Memory, TypesAndShardsShrinkIt) {
  RunShape run = small_run();
  run.tp = 2;
  run.bytes =
      element_bytes(/*bf16=*/true, /*emulated=*/false, /*float_head=*/false, /*bf16_cache=*/true);
  const RankMemory memory = rank_memory(small_model(), run);
  EXPECT_DOUBLE_EQ(memory.suffix, 2 * (kSmallBlock / 2 * 2 + 2 * 8 * 4));
  EXPECT_DOUBLE_EQ(memory.head, 40 * 2 + 8 * 4);
  EXPECT_DOUBLE_EQ(memory.cache, 10 * 9 * 8 * 2);
  EXPECT_DOUBLE_EQ(memory.peak(true) - memory.peak(false), memory.cache);
}

TEST(Memory, BlocksAndHeadsMayStayFloat32) {
  const ElementBytes emulated = element_bytes(true, /*emulated=*/true, /*float_head=*/true, false);
  EXPECT_EQ(emulated.block, 4);
  EXPECT_EQ(emulated.head, 4);
  EXPECT_EQ(emulated.embedding, 2);
  EXPECT_EQ(element_bytes(true, false, true, false).block, 2);
  EXPECT_EQ(element_bytes(true, false, false, false).head, 2);
}

// 1 operation per second, memory for free.
MachineSpeed one_operation_per_second() {
  MachineSpeed machine;
  machine.operations = 1;
  machine.copy_bytes = 1e30;
  machine.link_bytes = 1e30;
  return machine;
}

TEST(Seconds, FollowTheOperations) {
  const RunShape run = small_run();
  const Operations work = step_operations(small_model(), 0, micro_batch_of(run.pair, 2));
  MachineSpeed machine = one_operation_per_second();
  const StepSeconds seconds = micro_batch_seconds(small_model(), run, machine);
  EXPECT_NEAR(seconds.products, work.products, 1e-6);
  EXPECT_NEAR(seconds.head, work.head, 1e-6);
  EXPECT_NEAR(seconds.total(), work.total(), 1e-6);
  machine.product_share = 0.5;
  EXPECT_NEAR(micro_batch_seconds(small_model(), run, machine).products, 2 * work.products, 1e-6);
}

TEST(Seconds, AtAnMlpItsBlockRunsForwardInEveryPass) {
  RunShape run = small_run();
  const MachineSpeed machine = one_operation_per_second();
  const double at_block = micro_batch_seconds(small_model(), run, machine).total();
  const double prefix = prefix_seconds(small_model(), run, machine);
  run.site = Site::kMlp;
  const TokenCounts micro = micro_batch_of(run.pair, 2);
  EXPECT_NEAR(micro_batch_seconds(small_model(), run, machine).total(),
              at_block + prefix_operations(small_model(), 0, micro).total(), 1e-6);
  // What the pass before training does is the same, wherever the prefix ends.
  EXPECT_NEAR(prefix_seconds(small_model(), run, machine), prefix, 1e-3);
}

TEST(Seconds, ReplicasShareMicroBatches) {
  RunShape run = small_run();
  const MachineSpeed machine = one_operation_per_second();
  const double micro = micro_batch_seconds(small_model(), run, machine).total();
  EXPECT_NEAR(step_seconds(small_model(), run, machine, 6).total(), 3 * micro, 1e-3);
  run.dp = 2;
  EXPECT_NEAR(step_seconds(small_model(), run, machine, 6).total(), 2 * micro, 1e-3);
  run.dp = 5;
  EXPECT_NEAR(step_seconds(small_model(), run, machine, 6).total(), micro, 1e-3);
}

TEST(Seconds, FewTokensWaitForTheWeights) {
  RunShape run = small_run();
  MachineSpeed machine = one_operation_per_second();
  machine.operations = 1e30;
  machine.copy_bytes = 4;  // one weight per second
  const StepSeconds seconds = micro_batch_seconds(small_model(), run, machine);
  EXPECT_NEAR(seconds.products, 2 * 2 * kSmallBlock, 1e-6);
  EXPECT_NEAR(seconds.head, 2 * 80, 1e-6);
}

TEST(Seconds, OfThePassBeforeTraining) {
  const RunShape run = small_run();
  const MachineSpeed machine = one_operation_per_second();
  const double prefix = prefix_operations(small_model(), 0, run.pair).total();
  const double reference = forward_operations(small_model(), 0, run.pair).total();
  EXPECT_NEAR(prefix_seconds(small_model(), run, machine), 10 * (prefix + reference), 1e-3);
}

TEST(Seconds, OfAPassThatEndsAtTheLayerForSomePairs) {
  RunShape run = small_run();
  run.without_reference = 7;  // of ten
  const MachineSpeed machine = one_operation_per_second();
  const double prefix = prefix_operations(small_model(), 0, run.pair).total();
  const double reference = forward_operations(small_model(), 0, run.pair).total();
  EXPECT_NEAR(prefix_seconds(small_model(), run, machine), 10 * prefix + 3 * reference, 1e-3);
}

TEST(Seconds, PacksOfThePassShareWhatTheirPromptsBeginWith) {
  RunShape run = small_run();
  run.packs_prefix = true;
  run.pair = uniform_pair(5, 3, 2);
  const MachineSpeed machine = one_operation_per_second();
  const TokenCounts pack = micro_batch_of(run.pair, 10);  // all: a pack has 512 tokens
  EXPECT_NEAR(prefix_seconds(small_model(), run, machine),
              prefix_operations(small_model(), 0, pack).total() +
                  forward_operations(small_model(), 0, pack).total(),
              1e-3);
}

TEST(Seconds, CalibrationExplainsTheMeasurement) {
  RunShape run = small_run();
  run.tp = 2;
  MachineSpeed machine = one_operation_per_second();
  machine.copy_bytes = 1e6;
  machine.link_bytes = 4;
  const StepSeconds measured{40000, 5000, 9000, 0.5, 300, 7};
  const StepSeconds explained =
      micro_batch_seconds(small_model(), run, calibrated(small_model(), run, machine, measured));
  EXPECT_NEAR(explained.products, measured.products, 1e-6);
  EXPECT_NEAR(explained.attention, measured.attention, 1e-6);
  EXPECT_NEAR(explained.head, measured.head, 1e-6);
  EXPECT_NEAR(explained.elementwise, measured.elementwise, 1e-6);
  EXPECT_NEAR(explained.collectives, measured.collectives, 1e-6);
  EXPECT_NEAR(explained.other, measured.other, 1e-6);
}

TEST(Seconds, TensorParallelRanksExchangeTheResidualStream) {
  RunShape run = small_run();
  run.tp = 2;
  MachineSpeed machine = one_operation_per_second();
  machine.link_bytes = 4;  // one element per second
  machine.link_latency = 1;
  // Two blocks, twice each, both ways; of two ranks each sends half twice: 18 x 8 elements.
  EXPECT_NEAR(micro_batch_seconds(small_model(), run, machine).collectives, 8 * (1 + 18 * 8), 1e-6);
}

// One byte per second and a second of latency on a node, 100 between nodes.
MachineSpeed slow_links() {
  MachineSpeed machine = one_operation_per_second();
  machine.operations = 1e30;
  machine.link_bytes = 1;
  machine.link_latency = 1;
  machine.network_bytes = 0.5;
  machine.network_latency = 100;
  return machine;
}

// Steps of two pairs in the file's order: the second one has the long pairs.
TEST(Memory, TheLargestMicroBatchIsThatOfThePlan) {
  const std::vector<TokenPair> pairs = {pair_of(5, 3, 2, 7),  pair_of(5, 3, 2, 8),
                                        pair_of(90, 9, 4, 7), pair_of(40, 9, 4, 8),
                                        pair_of(6, 3, 2, 7),  pair_of(20, 3, 2, 8)};
  RunShape run = small_run();
  run.cuda = true;
  PlanSettings settings;
  settings.pairs = 6;
  settings.batch_size = 2;
  settings.micro_batch = 2;
  settings.epochs = 1;
  settings.shuffle = false;
  settings.sign = SignRule::kPlus;
  const auto bytes_of = [&](const std::vector<TokenPair>& of_batch, double ways = 1) {
    RunShape alone = run;
    alone.pair = mean_pair(of_batch);
    alone.micro_pairs = static_cast<double>(of_batch.size());
    alone.ways = ways;
    return rank_memory(small_model(), alone).activations;
  };
  const auto largest = [&] {
    return largest_micro_batch_bytes(small_model(), run, pairs, {BatchPlan(settings)});
  };
  EXPECT_DOUBLE_EQ(largest(), bytes_of({pairs[2], pairs[3]}));
  settings.max_steps = 1;
  EXPECT_DOUBLE_EQ(largest(), bytes_of({pairs[0], pairs[1]}));
  settings.max_steps = 0;
  settings.micro_batch = 1;
  EXPECT_DOUBLE_EQ(largest(), bytes_of({pairs[2]}));
  // Both signs are in one pass, and share no rows.
  settings.sign = SignRule::kBoth;
  EXPECT_DOUBLE_EQ(largest(), bytes_of({pairs[2], pairs[2]}, 2));
  EXPECT_NEAR(largest(), 2 * bytes_of({pairs[2]}), 1e-3 * largest());
  // So are vectors, whose seeds draw other pairs.
  settings.sign = SignRule::kPlus;
  settings.shuffle = true;
  PlanSettings other = settings;
  other.seed = settings.seed + 1;
  const BatchPlan plan(settings);
  const BatchPlan plan_of_other(other);
  double most = 0;
  for (std::int64_t step = 0; step < plan.total_steps(); ++step) {
    const StepPlan first = plan.step(step);
    const StepPlan second = plan_of_other.step(step);
    for (std::size_t m = 0; m < first.micro_batches.size(); ++m) {
      const auto a = static_cast<std::size_t>(first.micro_batches[m].front());
      const auto b = static_cast<std::size_t>(second.micro_batches[m].front());
      most = std::max(most, bytes_of({pairs[a], pairs[b]}, 2));
    }
  }
  EXPECT_DOUBLE_EQ(largest_micro_batch_bytes(small_model(), run, pairs, {plan, plan_of_other}),
                   most);
}

TEST(TokenCounts, EachWayOfSteeringHasItsOwnSharedTokens) {
  // Two ways of two pairs each: 4 x 9 tokens, of which each way has 4 once only.
  const TokenCounts micro = micro_batch_of(uniform_pair(5, 3, 4), 4, 2);
  EXPECT_EQ(micro.tokens, 4 * 9 - 2 * 4);
  EXPECT_EQ(micro_batch_of(uniform_pair(5, 3, 4), 4).tokens, 4 * 9 - 3 * 4);
}

TEST(Seconds, ReplicasReduceTheGradientOnceInAStep) {
  RunShape run = small_run();
  const MachineSpeed machine = slow_links();
  EXPECT_EQ(reduction_seconds(small_model(), run, machine, 6), 0);
  // 4 ranks: a tree of depth 2, and 1.5 times the bytes: extent 16, gradient 8 x 8, six pairs'
  // three figures 144, agreement 16.
  run.dp = 4;
  EXPECT_DOUBLE_EQ(reduction_seconds(small_model(), run, machine, 6),
                   4 * 2 + 1.5 * (16 + 64 + 144 + 16));
  EXPECT_DOUBLE_EQ(step_seconds(small_model(), run, machine, 6).reduction,
                   reduction_seconds(small_model(), run, machine, 6));
  // On two nodes all goes by the network.
  run.ranks_per_node = 2;
  EXPECT_DOUBLE_EQ(reduction_seconds(small_model(), run, machine, 6),
                   100 * 4 * 2 + 1.5 * (16 + 64 + 144 + 16) / 0.5);
}

TEST(Seconds, ReplicasOfSeveralRanksAlsoShareTheResult) {
  RunShape run = small_run();
  run.tp = 2;
  // The gradient goes from the first of two ranks to the other; both agree.
  EXPECT_DOUBLE_EQ(reduction_seconds(small_model(), run, slow_links(), 6), (1 + 64) + (1 + 16));
}

TEST(Seconds, ReplicasAcrossNodesExchangeByTheNetwork) {
  RunShape run = small_run();
  run.tp = 2;
  const MachineSpeed machine = slow_links();
  const double bytes = 18 * 8 * 4;
  EXPECT_NEAR(micro_batch_seconds(small_model(), run, machine).collectives, 8 * (1 + bytes), 1e-6);
  run.ranks_per_node = 1;
  EXPECT_NEAR(micro_batch_seconds(small_model(), run, machine).collectives, 8 * (100 + bytes / 0.5),
              1e-6);
}

}  // namespace
}  // namespace bipo
