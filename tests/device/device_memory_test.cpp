// The plan of a step's memory on a device against what the simulated device's allocator counts.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <regex>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/evaluation_run/evaluation_room.hpp"
#include "experiments/generation_run/generation_room.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/training/extraction_room.hpp"
#include "experiments/training/micro_batch_room.hpp"
#include "experiments/training/prefix_room.hpp"
#include "tests/device/block_counts.hpp"
#include "tests/device/device_scenario.hpp"
#include "tests/support/device_communicator.hpp"
#include "tests/support/graphs_in_use.hpp"
#include "tests/support/simulated_device.hpp"
#include "tests/support/simulated_memory.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/cost/cost.hpp"
#include "trainer/cost/forward_memory.hpp"
#include "trainer/extraction/extraction_pass.hpp"
#include "trainer/model/architecture/shapes.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo::testing {
namespace {

constexpr std::int64_t kLayer = 1;

// Gives a tiny model the proportions of a real one.
ModelConfig enlarged(ModelConfig config) {
  config.hidden = 96;
  config.blocks = 8;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_size = 16;
  config.intermediate = 256;
  config.vocabulary = 400;
  config.context = 512;
  if (!config.kind_of_block.empty()) {
    const std::vector<std::size_t> first = config.kind_of_block;
    config.kind_of_block.clear();
    for (std::size_t i = 0; i < static_cast<std::size_t>(config.blocks); ++i) {
      config.kind_of_block.push_back(first[i % first.size()]);
    }
  }
  return config;
}

ModelConfig enlarged_recurrent() {
  ModelConfig config = enlarged(llama_config());
  config.gated_attention = true;
  config.query_key_norms = QueryKeyNorms::kByHead;
  config.kind_of_block.assign(8, 0);
  set_recurrent_blocks(
      {true, true, true, false, true, true, true, false},
      {.key_heads = 3, .value_heads = 6, .key_size = 16, .value_size = 16, .taps = 4}, config);
  return config;
}

struct Lengths {
  std::size_t prompt;
  std::size_t answer;
  std::size_t shared;
  std::size_t spread;  // by so many tokens prompts and answers differ
};

std::vector<TokenPair> pairs_of(const Lengths& lengths, std::size_t count) {
  std::vector<TokenPair> pairs(count);
  for (std::size_t p = 0; p < count; ++p) {
    TokenPair& pair = pairs[p];
    pair.where = "made up:" + std::to_string(p + 1);
    const std::size_t shorter = p % 2 == 0 ? 0 : lengths.spread;
    for (std::size_t i = 0; i < lengths.prompt - shorter; ++i) {
      pair.prompt.push_back(static_cast<TokenId>(i < lengths.shared ? i : 100 + 7 * p + i));
    }
    for (std::size_t i = 0; i < lengths.answer; ++i) {
      pair.chosen.push_back(static_cast<TokenId>(50 + i));
    }
    for (std::size_t i = 0; i < lengths.answer - shorter / 2; ++i) {
      pair.rejected.push_back(static_cast<TokenId>(80 + i));
    }
  }
  return pairs;
}

// Activations in host memory, in float32.  `pack`: tokens that go together.
CacheSettings host_cache(std::int64_t pack = kTokensPerDevicePack) {
  CacheSettings settings;
  settings.place = ActivationPlace::kHost;
  settings.layers = {kLayer};
  settings.type = at::kFloat;
  settings.device_pack = pack;
  return settings;
}

// The most bytes that a step over `pairs` in one micro-batch, or in those of `micro_batch`, has on
// the device, weights aside, if it trains so many vectors at once.  `room` bytes are there for it;
// 0: any number.
double bytes_of_step(const ModelConfig& config, at::ScalarType type,
                     const std::vector<TokenPair>& pairs, std::int64_t micro_batch = 0,
                     double room = 0, std::size_t vectors = 1) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, type, simulated_device(), *ranks.tp);
  ActivationCache cache(decoder, pairs, host_cache(), ranks);
  fill_caches(decoder, {&cache}, ranks, ignore_progress);
  TrainingSettings training = training_settings(1, 11, 0.05, 0.1, SignRule::kBatch);
  training.plan.pairs = static_cast<std::int64_t>(pairs.size());
  training.plan.batch_size = training.plan.pairs;
  training.plan.micro_batch = micro_batch == 0 ? training.plan.pairs : micro_batch;
  training.plan.max_steps = 1;
  std::vector<TrainingRecord> records(vectors, starting_record(config.hidden, 11));
  QuietObserver observer;
  std::vector<TrainingMember> members;
  for (TrainingRecord& record : records) {
    members.push_back({training, record, observer});
  }
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  if (room > 0) {
    set_device_memory(before + static_cast<std::int64_t>(room));
  }
  train(decoder, cache, nullptr, kLayer, members, ranks);
  return static_cast<double>(device_bytes_at_peak() - before);
}

double planned_bytes(const ModelConfig& config, at::ScalarType type,
                     const std::vector<TokenPair>& pairs, bool flash = false, bool graphs = false) {
  RunShape run;
  run.layer = kLayer;
  run.cuda = true;
  run.flash = flash;
  run.graphs = graphs;
  run.pairs = static_cast<double>(pairs.size());
  run.pair = mean_pair(pairs);
  run.micro_pairs = static_cast<double>(pairs.size());
  run.bytes = element_bytes(type == at::kBFloat16, false, false, false);
  return rank_memory(config, run).activations;
}

struct Block {
  const char* name;
  ModelConfig config;
};

void PrintTo(const Block& block, std::ostream* out) {
  *out << block.name;
}

class PlannedMemory : public ::testing::TestWithParam<Block> {};

TEST_P(PlannedMemory, IsTheAllocators) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kComposed, simulated_device(), at::kBFloat16);
  // Long prompts, long answers, and pairs that have nothing in common.
  for (const Lengths& lengths :
       {Lengths{64, 8, 12, 0}, Lengths{16, 48, 5, 0}, Lengths{40, 20, 0, 0}}) {
    const std::vector<TokenPair> pairs = pairs_of(lengths, 4);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const double found = bytes_of_step(GetParam().config, type, pairs);
      const double planned = planned_bytes(GetParam().config, type, pairs);
      std::printf("%s %s, prompt %zu, answer %zu: %.0f bytes, plan %.0f (%+.1f %%)\n",
                  GetParam().name, c10::toString(type), lengths.prompt, lengths.answer, found,
                  planned, 100 * (planned / found - 1));
      EXPECT_NEAR(planned / found, 1, 0.1);
    }
  }
  choose_attention(AttentionChoice::kAuto, simulated_device(), at::kBFloat16);
}

std::string name_of_block(const ::testing::TestParamInfo<Block>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Blocks, PlannedMemory,
                         ::testing::Values(Block{"Llama", enlarged(llama_config())},
                                           Block{"Gemma", enlarged(gemma_config())},
                                           Block{"Qwen", enlarged(qwen_config())},
                                           Block{"Olmo", enlarged(olmo_config())},
                                           Block{"Cohere", enlarged(cohere_config())},
                                           Block{"Recurrent", enlarged_recurrent()}),
                         name_of_block);

// Flash attention's working space has a part for each span that short pairs do not fill.
TEST(PlannedMemoryOfFlash, IsTheAllocators) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kFlash, simulated_device(), at::kBFloat16);
  ModelConfig all_heads = enlarged(llama_config());
  all_heads.kv_heads = all_heads.heads;
  for (const Block& block :
       {Block{"Llama", enlarged(llama_config())}, Block{"all heads", all_heads},
        Block{"Qwen", enlarged(qwen_config())}}) {
    for (const Lengths& lengths : {Lengths{64, 8, 12, 0}, Lengths{100, 60, 5, 0}}) {
      const std::vector<TokenPair> pairs = pairs_of(lengths, 4);
      const double found = bytes_of_step(block.config, at::kBFloat16, pairs);
      const double planned = planned_bytes(block.config, at::kBFloat16, pairs, /*flash=*/true);
      std::printf("%s, prompt %zu, answer %zu: %.0f bytes, plan %.0f (%+.1f %%)\n", block.name,
                  lengths.prompt, lengths.answer, found, planned, 100 * (planned / found - 1));
      EXPECT_NEAR(planned / found, 1, 0.1);
    }
  }
  choose_attention(AttentionChoice::kAuto, simulated_device(), at::kBFloat16);
}

// Parts are padded to the longest of all pairs.
TEST(PlannedMemoryOfAStep, PadsPairsOfDifferentLengths) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({64, 24, 6, 30}, 4);
  const double found = bytes_of_step(config, at::kFloat, pairs);
  EXPECT_NEAR(planned_bytes(config, at::kFloat, pairs) / found, 1, 0.1);
}

// The first micro-batch of a shape is not recorded yet.
TEST(PlannedMemoryOfAStep, CountsWhatFillsItUp) {
  at::set_num_threads(1);
  const GraphsInUse graphs(simulated_device(), /*refuses=*/true);
  for (const bool flash : {false, true}) {
    choose_attention(flash ? AttentionChoice::kFlash : AttentionChoice::kComposed,
                     simulated_device(), at::kBFloat16);
    for (const Lengths& lengths : {Lengths{64, 8, 12, 0}, Lengths{33, 21, 5, 4}}) {
      const std::vector<TokenPair> pairs = pairs_of(lengths, 4);
      const ModelConfig config = enlarged(llama_config());
      const at::ScalarType type = flash ? at::kBFloat16 : at::kFloat;
      const double found = bytes_of_step(config, type, pairs);
      const double planned = planned_bytes(config, type, pairs, flash, /*graphs=*/true);
      std::printf("filled up, prompt %zu, answer %zu: %.0f bytes, plan %.0f (%+.1f %%)\n",
                  lengths.prompt, lengths.answer, found, planned, 100 * (planned / found - 1));
      EXPECT_NEAR(planned / found, 1, 0.1);
    }
  }
  choose_attention(AttentionChoice::kAuto, simulated_device(), at::kBFloat16);
}

// What libtorch's kernels keep beyond our own is little beside the rest.
TEST(PlannedMemoryOfAStep, IsNearThatOfComposedKernels) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kComposed, simulated_device(), at::kBFloat16);
  choose_kernels(KernelChoice::kComposed, simulated_device());
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 4);
  for (const auto& [name, config, type] : {std::tuple("Llama", llama_config(), at::kFloat),
                                           std::tuple("Gemma", gemma_config(), at::kBFloat16)}) {
    const double found = bytes_of_step(enlarged(config), type, pairs);
    const double planned = planned_bytes(enlarged(config), type, pairs);
    std::printf("%s %s, composed: %.0f bytes, plan %.0f\n", name, c10::toString(type), found,
                planned);
    EXPECT_NEAR(planned / found, 1, 0.1) << name;
  }
  choose_kernels(KernelChoice::kAuto, simulated_device());
}

// --- room ----------------------------------------------------------------------------------------

constexpr std::int64_t kAllMemory = std::int64_t{1} << 40;

// Calls `work` with so many bytes left on the device.
template <class Work>
auto with_device_memory(std::uint64_t bytes, const Work& work) {
  struct Limit {
    ~Limit() { set_device_memory(kAllMemory); }
  } const limit;
  set_device_memory(device_bytes_in_use() + static_cast<std::int64_t>(bytes));
  return work();
}

// A training of these pairs in one step, before its weights are loaded.
JobPreparation job_of(const ModelConfig& config, const std::vector<TokenPair>& pairs) {
  JobPreparation job;
  job.inputs.config = config;
  job.inputs.train = pairs;
  job.computation.device = simulated_device();
  job.options.layer = kLayer;
  job.options.cache_dtype = Dtype::kFp32;
  job.options.batch_size = static_cast<std::int64_t>(pairs.size());
  job.options.micro_batch = job.options.batch_size;
  job.options.epochs = 1;
  job.options.sign = SignRule::kBatch;
  return job;
}

// What the device must have beside the weights of a training that asks for these.
struct Room {
  std::string error;
  std::size_t warnings = 0;
  std::uint64_t work_bytes = 0;
  std::string unrecorded;
};

Room room_within(const ModelConfig& config, const std::vector<TokenPair>& pairs, double bytes,
                 std::size_t vectors = 1) {
  JobPreparation job = job_of(config, pairs);
  const std::uint64_t weights =
      Decoder::weight_bytes(config, 1, 0, at::kFloat, simulated_device(),
                            {kLayer + 1, config.blocks}, /*embedding=*/false);
  set_device_memory(device_bytes_in_use() + static_cast<std::int64_t>(weights) +
                    static_cast<std::int64_t>(bytes));
  Room room;
  try {
    require_micro_batch_room(job, std::vector(vectors, job.options));
  } catch (const UserError& error) {
    room.error = error.what();
  }
  set_device_memory(kAllMemory);
  room.warnings = job.warnings.size();
  room.work_bytes = job.work_bytes;
  room.unrecorded = job.unrecorded;
  return room;
}

TEST(MicroBatchRoom, IsLookedAtBeforeWork) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 8);
  const double taken = bytes_of_step(config, at::kFloat, pairs);

  const Room enough = room_within(config, pairs, 1.2 * taken);
  EXPECT_EQ(enough.error, "");
  EXPECT_EQ(enough.warnings, 0U);
  EXPECT_NEAR(static_cast<double>(enough.work_bytes) / taken, 1, 0.1);

  // Too little to be sure: the plan is within a tenth.
  const Room tight = room_within(config, pairs, 0.95 * static_cast<double>(enough.work_bytes));
  EXPECT_EQ(tight.error, "");
  EXPECT_EQ(tight.warnings, 1U);

  const double half = 0.57 * taken;
  const Room little = room_within(config, pairs, half);
  EXPECT_THROW(bytes_of_step(config, at::kFloat, pairs, 8, half), c10::OutOfMemoryError);
  set_device_memory(kAllMemory);
  const std::regex what_fits(
      R"(--micro-batch 8: the work on the largest micro-batch takes .*; --micro-batch (\d) fits; .*)");
  std::smatch match;
  ASSERT_TRUE(std::regex_match(little.error, match, what_fits)) << little.error;
  const std::int64_t fits = std::stoi(match[1]);
  EXPECT_GE(fits, 3);
  EXPECT_LE(fits, 5);
  bytes_of_step(config, at::kFloat, pairs, fits, half);  // throws if it does not fit
  set_device_memory(kAllMemory);

  const Room none = room_within(config, pairs, 0.05 * taken);
  EXPECT_NE(none.error.find("not even one pair fits"), std::string::npos) << none.error;
}

// What would fit is not refused: each vector of a pass has a tree of its own.
TEST(MicroBatchRoom, CountsTheVectorsOfAPass) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 4);
  const double taken = bytes_of_step(config, at::kFloat, pairs, 0, 0, /*vectors=*/3);
  const Room enough = room_within(config, pairs, 1.15 * taken, /*vectors=*/3);
  EXPECT_EQ(enough.error, "");
  EXPECT_NEAR(static_cast<double>(enough.work_bytes) / taken, 1, 0.1);
  const Room little = room_within(config, pairs, 0.5 * taken, /*vectors=*/3);
  EXPECT_NE(little.error.find("for 3 vectors at once"), std::string::npos) << little.error;
  EXPECT_NE(little.error.find("a lower --vectors-per-pass"), std::string::npos) << little.error;
}

// Graphs take as much again, and their micro-batches are filled up.
TEST(MicroBatchRoom, IsNotLeftToGraphsWhereItIsShort) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 4);
  const double taken = bytes_of_step(config, at::kFloat, pairs);
  const GraphsInUse graphs(simulated_device());
  const Room enough = room_within(config, pairs, 4 * taken);
  EXPECT_EQ(enough.error + enough.unrecorded, "");
  EXPECT_GT(static_cast<double>(enough.work_bytes), 1.8 * taken);
  EXPECT_TRUE(records_graphs());
  const Room little = room_within(config, pairs, 1.5 * taken);
  EXPECT_EQ(little.error, "");
  EXPECT_NE(little.unrecorded.find("no room"), std::string::npos);
  EXPECT_LT(static_cast<double>(little.work_bytes), 1.2 * taken);
  EXPECT_FALSE(records_graphs());
}

TEST(MicroBatchRoom, IsRecordedWhereTheHostIsTheSlower) {
  const GraphsInUse graphs(simulated_device());
  const std::vector<TokenPair> pairs = pairs_of({80, 12, 18, 0}, 32);
  JobPreparation large = job_of(read_shape("llama-2-7b"), pairs);
  EXPECT_NE(reason_not_to_record(large, {large.options}), "");
  large.options.cuda_graphs = CudaGraphs::kOn;
  EXPECT_EQ(reason_not_to_record(large, {large.options}), "");
  const JobPreparation small = job_of(enlarged(llama_config()), pairs);
  EXPECT_EQ(reason_not_to_record(small, {small.options}), "");
}

// Half of what is left would hold the activations, but not the work beside them.
TEST(MicroBatchRoom, IsLeftByTheActivations) {
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 8);
  const ModelConfig config = enlarged(llama_config());
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kFloat, simulated_device(), *ranks.tp);
  const auto rows = ActivationCache::bytes_needed(config.hidden, pairs, at::kFloat);
  for (const std::uint64_t work : {std::uint64_t{0}, rows, 3 * rows}) {
    CacheSettings settings;
    settings.layers = {kLayer};
    settings.type = at::kFloat;
    settings.work_bytes = work;
    ActivationCache cache(decoder, pairs, settings, ranks);
    fill_caches(decoder, {&cache}, ranks, ignore_progress);
    set_device_memory(device_bytes_in_use() + static_cast<std::int64_t>(3 * rows));
    EXPECT_EQ(cache.rows_on_device(decoder, kLayer).defined(), work <= rows);
    set_device_memory(kAllMemory);
  }
}

// Returns what a UserError of `work` says; empty: there is none.
template <class Work>
std::string refusal(const Work& work) {
  try {
    work();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

// Returns the most bytes, of less than 8 GiB, with which `holds` does, as it does with any less.
template <class Holds>
std::uint64_t most_with(const Holds& holds) {
  std::uint64_t most = 0;
  for (std::uint64_t step = std::uint64_t{1} << 32; step > 0; step /= 2) {
    most += holds(most + step) ? step : 0;
  }
  return most;
}

// --- scoring -------------------------------------------------------------------------------------

std::vector<Continuations> items_to_score(const std::vector<TokenPair>& pairs) {
  std::vector<Continuations> items;
  for (const TokenPair& pair : pairs) {
    items.push_back({pair.prompt, {pair.chosen, pair.rejected}, pair.where, {}});
  }
  return items;
}

std::vector<PromptTokens> prompts_to_compare(const std::vector<TokenPair>& pairs) {
  std::vector<PromptTokens> prompts;
  for (const TokenPair& pair : pairs) {
    prompts.push_back({pair.prompt, pair.where});
  }
  return prompts;
}

// The most bytes that scores (or divergences) of all pairs in one batch, at two settings, have on
// the device beside the weights.  `room` bytes are there for them; 0: any number.
double bytes_of_scoring(const ModelConfig& config, at::ScalarType type,
                        const std::vector<TokenPair>& pairs, bool divergences, double room = 0) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, type, simulated_device(), *ranks.tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const std::vector<float> vector(static_cast<std::size_t>(config.hidden), 0.1F);
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  if (room > 0) {
    set_device_memory(before + static_cast<std::int64_t>(room));
  }
  const SteeringVectors vectors({{kLayer, vector}}, decoder);
  const ScoringContext context{decoder, ranks, std::ssize(pairs), {}};
  const SteeringSettings settings{{{0.0}, {1.0}}};
  if (divergences) {
    prompt_divergences(context, prompts_to_compare(pairs), vectors, settings);
  } else {
    score_continuations(context, items_to_score(pairs), vectors, settings);
  }
  return static_cast<double>(device_bytes_at_peak() - before);
}

EvaluationJob evaluation_of(const ModelConfig& config, at::ScalarType type,
                            const std::vector<TokenPair>& pairs, bool divergences) {
  EvaluationJob job;
  job.model.files.config = config;
  job.model.computation.device = simulated_device();
  job.model.computation.product_type = type;
  job.options.batch_size = std::ssize(pairs);
  if (divergences) {
    job.neutral_prompts = prompts_to_compare(pairs);
  } else {
    job.pairs = pairs;
  }
  job.plan.coefficients = {{0.0}, {0.0}};
  job.plan.direction_settings = job.plan.coefficients.size();
  return job;
}

// What is refused would fail: the pass holds more than is there.
TEST(EvaluationRoom, RefusesWhatHasCertainlyNone) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 8);
  for (const auto& [name, config] :
       {std::pair("Llama", enlarged(llama_config())), std::pair("Gemma", enlarged(gemma_config())),
        std::pair("Cohere", enlarged(cohere_config())),
        std::pair("recurrent", enlarged_recurrent())}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const bool divergences : {false, true}) {
        const double found = bytes_of_scoring(config, type, pairs, divergences);
        const EvaluationJob job = evaluation_of(config, type, pairs, divergences);
        const std::uint64_t refused = most_with([&](std::uint64_t bytes) {
          return !refusal([&] { require_batch_room(job, bytes); }).empty();
        });
        std::printf("%s %s, %s: %.0f bytes, refused up to %.0f\n", name, c10::toString(type),
                    divergences ? "divergences" : "scores", found, static_cast<double>(refused));
        EXPECT_LT(static_cast<double>(refused), found);
        EXPECT_GT(static_cast<double>(refused), 0.1 * found);
      }
    }
  }
}

TEST(EvaluationRoom, SaysWhichBatchMayHaveIt) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({64, 8, 12, 0}, 8);
  EvaluationJob job = evaluation_of(config, at::kFloat, pairs, /*divergences=*/true);
  const double all = bytes_of_scoring(config, at::kFloat, pairs, /*divergences=*/true);
  const auto error_within = [&](double bytes) {
    return refusal([&] { require_batch_room(job, static_cast<std::uint64_t>(bytes)); });
  };
  EXPECT_EQ(error_within(all), "");
  const std::string little = error_within(0.2 * all);
  std::smatch match;
  ASSERT_TRUE(std::regex_match(
      little, match,
      std::regex(R"(--batch-size 8: .* of --neutral-prompts takes at least .*; )"
                 R"(use --batch-size (\d)(?: or less)?, --dtype bf16 or a larger --tp)")))
      << little;
  job.options.batch_size = std::stoi(match[1]);
  EXPECT_EQ(error_within(0.2 * all), "");
  ++job.options.batch_size;
  EXPECT_NE(error_within(0.2 * all), "");
  EXPECT_NE(error_within(1).find("not even one item has room"), std::string::npos);
  job.model.computation.device = at::kCPU;
  EXPECT_EQ(error_within(1), "");
}

// --- gates ---------------------------------------------------------------------------------------

Gate gate_at(const ModelConfig& config, std::int64_t layer) {
  return {{layer, std::vector<float>(static_cast<std::size_t>(config.hidden), 0.1F)}, 0};
}

// The most bytes that deciding the gates of all prompts in one batch has on the device beside the
// weights.
double bytes_of_gates(const ModelConfig& config, at::ScalarType type,
                      const std::vector<TokenPair>& pairs, const Gate& gate) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, type, simulated_device(), *ranks.tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  open_gates({decoder, ranks, std::ssize(pairs), {}}, prompts_to_compare(pairs), gate);
  return static_cast<double>(device_bytes_at_peak() - before);
}

// Scores compute what prompts share once, gates do not.
TEST(EvaluationRoom, CountsThePassOfAGate) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kComposed, simulated_device(), at::kBFloat16);
  const std::vector<TokenPair> pairs = pairs_of({64, 2, 60, 0}, 8);
  for (const ModelConfig& config : {enlarged(llama_config()), enlarged(gemma_config())}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      EvaluationJob job = evaluation_of(config, type, pairs, /*divergences=*/false);
      job.gate = gate_at(config, kLayer);
      const auto error_within = [&](std::uint64_t bytes) {
        return refusal([&] { require_batch_room(job, bytes); });
      };
      const auto refused = [&] {
        return static_cast<double>(
            most_with([&](std::uint64_t bytes) { return !error_within(bytes).empty(); }));
      };
      const double found = bytes_of_gates(config, type, pairs, *job.gate);
      job.plan.coefficients = {{0.0}, {0.0}};
      const double unsteered = refused();
      job.plan.coefficients = {{0.0}, {1.0}};
      EXPECT_GT(refused(), 1.5 * unsteered);
      EXPECT_LT(refused(), found);
      EXPECT_GT(refused(), 0.2 * found);
      const std::string error = error_within(static_cast<std::uint64_t>(refused()));
      EXPECT_NE(
          error.find("--batch-size 8: the pass over a batch of prompts of --test, for --gate, "
                     "takes at least"),
          std::string::npos)
          << error;
      EXPECT_NE(error.find("use --batch-size 7 or less"), std::string::npos) << error;
    }
  }
  choose_attention(AttentionChoice::kAuto, simulated_device(), at::kBFloat16);
}

// The last batch is within what the others have together, and takes more than each of them.
TEST(EvaluationRoom, LooksAtEveryBatchThatMayTakeMost) {
  const ModelConfig config = enlarged(gemma_config());
  const auto refused = [&](const std::vector<std::size_t>& prompts) {
    std::vector<TokenPair> pairs;
    for (const std::size_t prompt : prompts) {
      pairs.push_back(pairs_of({prompt, 2, 0, 0}, 1).front());
    }
    EvaluationJob job = evaluation_of(config, at::kFloat, pairs, /*divergences=*/false);
    job.gate = gate_at(config, kLayer);
    job.plan.coefficients = {{1.0}, {1.0}};
    job.options.batch_size = 2;
    return most_with([&](std::uint64_t bytes) {
      return !refusal([&] { require_batch_room(job, bytes); }).empty();
    });
  };
  EXPECT_EQ(refused({60, 60, 100, 10, 100, 20}), refused({100, 20}));
  EXPECT_LT(refused({60, 60, 100, 10}), refused({100, 20}));
}

// --- generation ----------------------------------------------------------------------------------

// Six prompts at two settings, all at work together.
GenerationJob generation_of(const ModelConfig& config, at::ScalarType type,
                            const SteeredPositions& positions) {
  GenerationJob job;
  job.model.files.config = config;
  job.model.computation.device = simulated_device();
  job.model.computation.product_type = type;
  job.vectors.resize(1);
  job.vectors.front().stored.layer = kLayer;
  for (const TokenPair& pair : pairs_of({40, 2, 12, 3}, 6)) {
    job.prompts.emplace_back();
    job.tokens.push_back({std::ssize(job.tokens), pair.prompt});
  }
  job.settings.multipliers = {{-1.0}, {1.0}};
  job.settings.max_new_tokens = 4;
  job.settings.positions = positions;
  job.batch = std::ssize(job.tokens);
  job.room = generation_room(config, job.tokens, job.batch, job.settings);
  return job;
}

// The most bytes that a generation has on the device beside weights and vectors.  `room` bytes are
// there for it; 0: any number.
double bytes_of_generation(const GenerationJob& job, std::uint64_t room = 0) {
  const ModelConfig& config = job.model.files.config;
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, job.model.computation.product_type, simulated_device(),
                  *ranks.tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const SteeringVectors vectors(
      {{kLayer, std::vector<float>(static_cast<std::size_t>(config.hidden), 0.1F)}}, decoder);
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  if (room > 0) {
    set_device_memory(before + static_cast<std::int64_t>(room));
  }
  TextGenerator generator(decoder, vectors, job.settings, job.room,
                          [](std::int64_t, std::int64_t, TokenId) {});
  generator.add(job.tokens);
  while (generator.unfinished() > 0) {
    generator.step();
  }
  return static_cast<double>(device_bytes_at_peak() - before);
}

std::string refusal_within(const GenerationJob& job, std::uint64_t bytes) {
  return refusal([&] { require_generation_room(job, bytes); });
}

TEST(GenerationRoom, RefusesWhatHasCertainlyNone) {
  at::set_num_threads(1);
  for (const auto& [name, config] :
       {std::pair("Llama", enlarged(llama_config())), std::pair("Gemma", enlarged(gemma_config())),
        std::pair("recurrent", enlarged_recurrent())}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const SteeredPositions& positions : {SteeredPositions(SteeredPositions::kAll),
                                                SteeredPositions(SteeredPositions::kAnswer)}) {
        const GenerationJob job = generation_of(config, type, positions);
        const double found = bytes_of_generation(job);
        const std::uint64_t refused =
            most_with([&](std::uint64_t bytes) { return !refusal_within(job, bytes).empty(); });
        std::printf("%s %s, at %s: %.0f bytes, refused up to %.0f\n", name, c10::toString(type),
                    to_string(positions).c_str(), found, static_cast<double>(refused));
        EXPECT_LT(static_cast<double>(refused), found);
        EXPECT_GT(static_cast<double>(refused), 0.25 * found);
      }
    }
  }
}

// Keys and values have room, the work beside them has none.
TEST(GenerationRoom, CountsTheWorkOfPasses) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  GenerationJob job = generation_of(config, at::kFloat, SteeredPositions::kAll);
  const std::uint64_t little =
      most_with([&](std::uint64_t bytes) { return !refusal_within(job, bytes).empty(); });
  EXPECT_LT(Decoder::cache_bytes(config, 1, 0, {0, config.blocks}, job.room.own_rows,
                                 job.room.own_regions),
            little);
  EXPECT_THROW(bytes_of_generation(job, little), c10::OutOfMemoryError);
  set_device_memory(kAllMemory);

  const std::string error = refusal_within(job, little);
  std::smatch match;
  ASSERT_TRUE(std::regex_match(
      error, match,
      std::regex(
          R"(keys and values of 6 prompts at 2 multipliers take .* per rank, and passes over )"
          R"(them at least .*, but .* are free beside the weights; use --batch-size (\d))"
          R"((?: or less)?, lower --max-new-tokens, use --dtype bf16, or raise --tp)")))
      << error;
  job.batch = std::stoi(match[1]);
  EXPECT_EQ(refusal_within(job, little), "");
  ++job.batch;
  EXPECT_NE(refusal_within(job, little), "");
  EXPECT_NE(refusal_within(job, 1).find("not even one prompt has room"), std::string::npos);
}

// Prompts go through the model in packs, but all of a batch at once where their gates are decided.
TEST(GenerationRoom, CountsThePassOfAGate) {
  at::set_num_threads(1);
  ModelConfig config = enlarged(llama_config());
  config.blocks = 2;
  const std::vector<TokenPair> pairs = pairs_of({40, 2, 0, 0}, 200);
  GenerationJob job = generation_of(config, at::kFloat, SteeredPositions::kAll);
  job.settings.multipliers = {{1.0}};
  job.settings.max_new_tokens = 1;
  job.tokens.clear();
  for (const TokenPair& pair : pairs) {
    job.tokens.push_back({std::ssize(job.tokens), pair.prompt});
  }
  job.prompts.resize(job.tokens.size());
  job.batch = std::ssize(job.tokens);
  const auto refused = [&] {
    return most_with([&](std::uint64_t bytes) { return !refusal_within(job, bytes).empty(); });
  };
  const auto without = static_cast<double>(refused());
  job.gate = gate_at(config, /*layer=*/1);
  const std::uint64_t little = refused();
  const double found = bytes_of_gates(config, at::kFloat, pairs, *job.gate);
  EXPECT_GT(static_cast<double>(little), 1.2 * without);
  EXPECT_LT(static_cast<double>(little), found);
  EXPECT_GT(static_cast<double>(little), 0.25 * found);
  const std::string error = refusal_within(job, little);
  EXPECT_NE(error.find("--gate: the pass over 200 prompts that decides their gates takes at least"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("use --batch-size 199 or less, use --dtype bf16, or raise --tp"),
            std::string::npos)
      << error;
}

// --- kernels -------------------------------------------------------------------------------------

ModelConfig gated_config() {
  ModelConfig config = llama_config();
  config.gated_attention = true;
  return config;
}

std::vector<Block> blocks_to_count() {
  return {{"Llama", llama_config()},   {"Qwen", qwen_config()},          {"Gemma", gemma_config()},
          {"Gemma4", gemma4_config()}, {"Cohere", cohere_config()},      {"Olmo", olmo_config()},
          {"Glm", glm_config()},       {"Gated", gated_config()},        {"Neox", neox_config()},
          {"Scaled", scaled_config()}, {"Recurrent", recurrent_config()}};
}

TEST(PlannedKernels, AreThoseOfTheDevice) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kComposed, simulated_device(), at::kBFloat16);
  for (const Block& block : blocks_to_count()) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const BlockCounts found = counts_of_block(block.config, type);
      const DeviceKernels planned =
          block_kernels(block.config, 1, type == at::kBFloat16, /*flash=*/false);
      std::printf("%s %s: %d kernels forward, %d backward; plan %.0f, %.0f\n", block.name,
                  c10::toString(type), static_cast<int>(found.forward.kernels),
                  static_cast<int>(found.backward.kernels), planned.forward, planned.backward);
      EXPECT_LE(found.forward.kernels, 20) << block.name;
      EXPECT_LE(found.backward.kernels, 30) << block.name;
      const auto all = static_cast<double>(found.forward.kernels + found.backward.kernels);
      EXPECT_NEAR((planned.forward + planned.backward) / all, 1, 0.1) << block.name;
    }
  }
}

struct FilledCache {
  int streams = 0;  // times that pairs went through block after block
  std::vector<double> reference;
  at::Tensor rows;      // of three pairs
  at::Tensor all_rows;  // in host memory
  DeviceCounts counts;
};

// `room` bytes are left beside all weights; 0: any number.  `pack`: tokens that go together, which
// takes at least `pack_bytes`.
FilledCache fill_with_room(const std::vector<TokenPair>& pairs, std::int64_t room,
                           std::int64_t pack, const Ranks& ranks = lone_ranks(),
                           std::optional<at::Device> device = std::nullopt,
                           const ModelConfig& config = enlarged(llama_config()),
                           std::uint64_t pack_bytes = 0) {
  const RandomWeights weights(config);
  Decoder decoder(config, weights, at::kFloat,
                  device.value_or(simulated_device(ranks.topology.rank())), *ranks.tp);
  CacheSettings settings = host_cache(pack);
  settings.pack_bytes = pack_bytes;
  ActivationCache cache(decoder, pairs, settings, ranks);
  const auto bytes_of = [&](Range blocks, bool embedding) {
    return static_cast<std::int64_t>(
        Decoder::weight_bytes(config, 1, 0, at::kFloat, simulated_device(), blocks, embedding));
  };
  if (room > 0) {
    set_device_memory(device_bytes_in_use() + bytes_of({0, config.blocks}, true) -
                      bytes_of({0, 0}, false) + room);
  }
  FilledCache filled;
  const DeviceCounts before = device_counts();
  fill_caches(decoder, {&cache}, ranks,
              [&](const std::string& phase, std::int64_t done, std::int64_t) {
                filled.streams += phase.find("block") != std::string::npos && done == 1 ? 1 : 0;
              });
  filled.counts = device_counts() - before;
  set_device_memory(kAllMemory);
  for (const AnswerLogProbs& answer : cache.reference(kLayer)) {
    filled.reference.insert(filled.reference.end(), {answer.chosen, answer.rejected});
  }
  filled.rows = cache.activations(decoder, pack_alike(pairs, {0, 7, 9}, decoder), kLayer).cpu();
  filled.all_rows = cache.kept_activations(kLayer).clone();
  return filled;
}

// Half of the room holds a third of the pairs' activations, or less where their tables count.
TEST(PrefixPass, GoesInPortionsOfWhatIsFree) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 40);
  const auto rows = static_cast<std::int64_t>(
      ActivationCache::bytes_needed(enlarged(llama_config()).hidden, pairs, at::kFloat));
  const FilledCache at_once = fill_with_room(pairs, 0, /*pack=*/64);
  const FilledCache in_portions = fill_with_room(pairs, rows * 2 / 3, /*pack=*/64);
  EXPECT_EQ(at_once.streams, 1);
  EXPECT_GE(in_portions.streams, 3);
  EXPECT_LE(in_portions.streams, 20);  // a block is not loaded for each pair
  EXPECT_EQ(in_portions.reference, at_once.reference);
  EXPECT_TRUE(at::equal(in_portions.rows, at_once.rows));
}

TEST(PrefixPass, LeavesToAPackWhatItTakes) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 40);
  const ModelConfig config = enlarged(llama_config());
  const auto rows =
      static_cast<std::int64_t>(ActivationCache::bytes_needed(config.hidden, pairs, at::kFloat));
  const auto fill = [&](std::int64_t pack_bytes) {
    return fill_with_room(pairs, 2 * rows, /*pack=*/64, lone_ranks(), std::nullopt, config,
                          static_cast<std::uint64_t>(pack_bytes));
  };
  const FilledCache half = fill(0);
  const FilledCache less = fill(2 * rows - rows / 4);
  EXPECT_GT(less.streams, half.streams);
  EXPECT_TRUE(at::equal(less.all_rows, half.all_rows));
  EXPECT_EQ(less.reference, half.reference);
}

// A device that has room for smaller packs only now does not compute again what is there.
TEST(PrefixPass, TakesWhatTheUsualPacksLeftInADirectory) {
  at::set_num_threads(1);
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / fmt::format("usual_packs_{}", ::getpid());
  std::filesystem::create_directories(directory);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 10);
  const ModelConfig config = enlarged(llama_config());
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kFloat, simulated_device(), *ranks.tp);
  const auto begin = [&](std::int64_t pack) {
    CacheSettings settings = host_cache(pack);
    settings.directory = directory;
    return std::make_unique<ActivationCache>(decoder, pairs, settings, ranks);
  };
  {
    const auto smaller = begin(128);
    ASSERT_FALSE(smaller->is_filled());
    fill_caches(decoder, {smaller.get()}, ranks, ignore_progress);
  }
  EXPECT_TRUE(begin(128)->is_filled());
  EXPECT_FALSE(begin(64)->is_filled());
  const auto usual = begin(kTokensPerDevicePack);
  ASSERT_FALSE(usual->is_filled());
  fill_caches(decoder, {usual.get()}, ranks, ignore_progress);
  const auto found = begin(64);
  ASSERT_TRUE(found->is_filled());
  EXPECT_TRUE(at::equal(found->kept_activations(kLayer), usual->kept_activations(kLayer)));
  std::filesystem::remove_all(directory);
}

// The host asks for as much whatever the number of pairs in a pack.
TEST(PrefixPass, AsksForManyPairsAtOnce) {
  at::set_num_threads(1);
  const FilledCache few = fill_with_room(pairs_of({12, 6, 4, 2}, 10), 0, kTokensPerDevicePack);
  const FilledCache many = fill_with_room(pairs_of({12, 6, 4, 2}, 40), 0, kTokensPerDevicePack);
  EXPECT_GT(few.counts.kernels, 0);
  EXPECT_EQ(many.counts.kernels, few.counts.kernels);
  EXPECT_EQ(many.counts.copies_to_device, few.counts.copies_to_device);
  EXPECT_EQ(many.counts.host_reads(), few.counts.host_reads());
}

// The most bytes that the pass has on the device, weights among them.
double bytes_of_pass(const std::vector<TokenPair>& pairs, const ModelConfig& config) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kFloat, simulated_device(), *ranks.tp);
  ActivationCache cache(decoder, pairs, host_cache(256), ranks);
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  fill_caches(decoder, {&cache}, ranks, ignore_progress);
  return static_cast<double>(device_bytes_at_peak() - before);
}

TEST(PrefixPass, DoesNotPadShortPairsToALongOne) {
  at::set_num_threads(1);
  std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 0}, 30);
  const std::vector<TokenPair> longer = pairs_of({200, 6, 4, 0}, 1);
  pairs.insert(pairs.begin() + 15, longer.front());
  const ModelConfig config = enlarged(gemma_config());  // whose scores are there whole
  EXPECT_LT(bytes_of_pass(pairs, config), 1.5 * bytes_of_pass(longer, config));
}

TEST(RowsOfPack, AreThoseOfThePacking) {
  const ModelConfig config = llama_config();
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  const Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
  // Answers of one token have no rows, and prompts that are alike no rests.
  for (const auto& [lengths, count] :
       {std::pair(Lengths{12, 6, 4, 2}, 5), std::pair(Lengths{12, 6, 0, 2}, 4),
        std::pair(Lengths{12, 1, 4, 0}, 3), std::pair(Lengths{9, 12, 9, 0}, 3),
        std::pair(Lengths{12, 6, 4, 0}, 1)}) {
    const std::vector<TokenPair> pairs = pairs_of(lengths, static_cast<std::size_t>(count));
    std::vector<std::int64_t> all(pairs.size());
    std::iota(all.begin(), all.end(), 0);
    const PackedPairs packed = pack_alike(pairs, all, decoder);
    const std::vector<QuerySpan>& spans = packed.layout.kinds.front().all->spans;
    double longest_queries = 0;
    double longest_keys = 0;
    for (const QuerySpan& span : spans) {
      const std::int64_t keys = context_size(span) + span.visible + span.queries.size() - 1;
      longest_queries = std::max(longest_queries, static_cast<double>(span.queries.size()));
      longest_keys = std::max(longest_keys, static_cast<double>(keys));
    }
    const BlockRows rows = rows_of_pack(pairs);
    EXPECT_EQ(rows.tokens, static_cast<double>(packed.tokens()));
    EXPECT_EQ(rows.spans, static_cast<double>(spans.size()));
    EXPECT_EQ(rows.longest_queries, longest_queries);
    EXPECT_EQ(rows.longest_keys, longest_keys);
  }
}

// What choose_prefix_packs() says of a device with so much memory for weights and work.
struct ChosenPacks {
  JobPreparation job;
  std::string error;
};

ChosenPacks packs_within(const ModelConfig& config, const std::vector<TokenPair>& pairs,
                         std::uint64_t bytes) {
  ChosenPacks chosen{job_of(config, pairs), ""};
  chosen.error = with_device_memory(bytes, [&] {
    return refusal([&] { choose_prefix_packs(chosen.job, {.layers = {kLayer}}); });
  });
  return chosen;
}

// What is refused would fail.
TEST(PrefixRoom, RefusesAPairThatHasCertainlyNone) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({200, 6, 4, 0}, 1);
  for (const ModelConfig& config : {enlarged(llama_config()), enlarged(gemma_config())}) {
    const std::uint64_t little = most_with(
        [&](std::uint64_t bytes) { return !packs_within(config, pairs, bytes).error.empty(); });
    const std::string error = packs_within(config, pairs, little).error;
    EXPECT_NE(error.find("made up:1: the prefix pass over this pair alone, 210 tokens,"),
              std::string::npos)
        << error;
    EXPECT_GT(static_cast<double>(little), 0.3 * bytes_of_pass(pairs, config));
    EXPECT_THROW(with_device_memory(little, [&] { return bytes_of_pass(pairs, config); }),
                 c10::OutOfMemoryError);
  }
}

// Packs become smaller only where the usual ones would fail.
TEST(PrefixRoom, TakesSmallerPacksWhereOthersHaveNone) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 80);
  const std::uint64_t little = most_with([&](std::uint64_t bytes) {
    const ChosenPacks chosen = packs_within(config, pairs, bytes);
    return !chosen.error.empty() || chosen.job.device_pack < kTokensPerDevicePack;
  });
  const JobPreparation job = packs_within(config, pairs, little).job;
  ASSERT_EQ(job.warnings.size(), 1U);
  EXPECT_NE(job.warnings.front().find("the prefix pass takes packs of"), std::string::npos);
  EXPECT_GE(job.device_pack, 64);
  EXPECT_GT(job.pack_bytes, 0U);
  const auto fill = [&](std::int64_t pack, std::uint64_t pack_bytes) {
    return with_device_memory(little, [&] {
      return fill_with_room(pairs, 0, pack, lone_ranks(), std::nullopt, config, pack_bytes);
    });
  };
  EXPECT_THROW(fill(kTokensPerDevicePack, 0), c10::OutOfMemoryError);
  const FilledCache found = fill(job.device_pack, job.pack_bytes);  // throws if it does not fit
  const FilledCache usual = fill_with_room(pairs, 0, kTokensPerDevicePack);
  EXPECT_TRUE(at::allclose(found.all_rows, usual.all_rows, 1e-4, 1e-5));

  const JobPreparation enough = packs_within(config, pairs, little + 1).job;
  EXPECT_EQ(enough.device_pack, kTokensPerDevicePack);
  EXPECT_TRUE(enough.warnings.empty());
}

// Pairs whose activations are not kept go one by one, and shrink no packs of those that are.
TEST(PrefixRoom, CountsNoPacksOfPairsThatAreNotKept) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 4);
  const auto pack_with = [&](std::uint64_t bytes, std::uint64_t budget) {
    JobPreparation job = job_of(config, pairs);
    job.inputs.test = pairs_of({12, 6, 4, 2}, 80);
    job.options.cache_budget = budget;
    const std::string error = with_device_memory(
        bytes, [&] { return refusal([&] { choose_prefix_packs(job, {.layers = {kLayer}}); }); });
    return error.empty() ? job.device_pack : 0;
  };
  const std::uint64_t of_training = ActivationCache::bytes_needed(config.hidden, pairs, at::kFloat);
  const std::uint64_t all = std::uint64_t{1} << 30;
  const std::uint64_t little =
      most_with([&](std::uint64_t bytes) { return pack_with(bytes, all) < kTokensPerDevicePack; });
  EXPECT_LT(pack_with(little, all), kTokensPerDevicePack);
  EXPECT_EQ(pack_with(little, of_training), kTokensPerDevicePack);
}

// No row's last bits depend on the rank that computes it.
TEST(PrefixRoom, RanksTakeTheSmallestPacksOfAny) {
  at::set_num_threads(1);
  const ModelConfig config = enlarged(llama_config());
  const RandomWeights weights(config);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 6);
  run_on_devices(/*tp=*/1, /*dp=*/2, [&](Ranks& ranks) {
    Decoder decoder(config, weights, at::kFloat, simulated_device(ranks.topology.rank()),
                    *ranks.tp);
    JobPreparation job = job_of(config, pairs);
    job.device_pack = ranks.topology.rank() == 0 ? kTokensPerDevicePack : 64;
    std::ostringstream shown;
    ProgressDisplay display(shown, {false,
                                    [] {
                                      return TerminalSize{80, 24};
                                    },
                                    [] { return std::chrono::steady_clock::time_point(); }});
    const PreparedData data = prepare_data(
        decoder, job, {.layers = {kLayer}, .budget = std::uint64_t{1} << 30}, ranks, display);
    EXPECT_EQ(data.train->settings().device_pack, 64);
    EXPECT_EQ(shown.str().find("packs of 64 tokens") != std::string::npos,
              ranks.topology.rank() == 0);
  });
}

// Packs are the same whatever the replicas, and their rows those of pairs by themselves but for
// rounding; recurrent blocks carry states over the packs' parts.
TEST(PrefixPass, HasTheSameBitsOverReplicas) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 20);
  for (const ModelConfig& config : {enlarged(llama_config()), enlarged_recurrent()}) {
    const auto on = [&](const Ranks& ranks, std::optional<at::Device> device) {
      return fill_with_room(pairs, 0, /*pack=*/64, ranks, device, config);
    };
    const FilledCache alone = on(lone_ranks(), std::nullopt);
    run_on_devices(/*tp=*/1, /*dp=*/2, [&](Ranks& ranks) {
      const FilledCache found = on(ranks, std::nullopt);
      EXPECT_TRUE(at::equal(found.all_rows, alone.all_rows));
      EXPECT_EQ(found.reference, alone.reference);
    });
    const FilledCache cpu = on(lone_ranks(), at::kCPU);
    EXPECT_TRUE(at::allclose(alone.all_rows, cpu.all_rows, 1e-4, 1e-5));
  }
}

struct Extraction {
  std::vector<ExtractedDirection> found;
  DeviceCounts counts;
};

ExtractionSettings extraction_settings(bool block_by_block) {
  ExtractionSettings settings;
  settings.layers = {0, kLayer};
  settings.block_by_block = block_by_block;
  return settings;
}

Extraction extract_on(at::Device device, const std::vector<TokenPair>& pairs, std::int64_t pack,
                      bool block_by_block, const Ranks& ranks = lone_ranks()) {
  const ModelConfig config = enlarged(llama_config());
  const RandomWeights weights(config);
  Decoder decoder(config, weights, at::kFloat, device, *ranks.tp);
  ExtractionSettings settings = extraction_settings(block_by_block);
  settings.device_pack = pack;
  const DeviceCounts before = device_counts();
  Extraction extraction;
  extraction.found = extract_directions(decoder, pairs, settings, mean_difference_statistics(),
                                        ranks, ignore_progress);
  extraction.counts = device_counts() - before;
  return extraction;
}

TEST(ExtractionPass, ReadsManyPairsAtOnce) {
  at::set_num_threads(1);
  for (const bool block_by_block : {true, false}) {
    const auto counts = [&](std::size_t pairs, std::int64_t pack) {
      return extract_on(simulated_device(), pairs_of({12, 6, 4, 2}, pairs), pack, block_by_block)
          .counts;
    };
    const DeviceCounts few = counts(10, kTokensPerDevicePack);
    const DeviceCounts many = counts(40, kTokensPerDevicePack);
    EXPECT_GT(few.host_reads(), 0);
    EXPECT_EQ(many.host_reads(), few.host_reads());
    EXPECT_EQ(many.copies_to_device, few.copies_to_device);
    const DeviceCounts one_by_one = counts(40, /*pack=*/1);
    EXPECT_GT(one_by_one.host_reads(), many.host_reads() + 39);
    EXPECT_GT(one_by_one.kernels, 2 * many.kernels);
  }
}

// Packs of two pairs; of 300 pairs some shares have two.
TEST(ExtractionPass, HasTheSameBitsOverReplicas) {
  at::set_num_threads(1);
  for (const std::size_t count : {std::size_t{20}, std::size_t{300}}) {
    const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, count);
    const Extraction cpu = extract_on(at::kCPU, pairs, /*pack=*/64, true);
    for (const bool block_by_block : {true, false}) {
      const Extraction alone = extract_on(simulated_device(), pairs, /*pack=*/64, block_by_block);
      run_on_devices(/*tp=*/1, /*dp=*/2, [&](Ranks& ranks) {
        const Extraction found = extract_on(simulated_device(ranks.topology.rank()), pairs,
                                            /*pack=*/64, block_by_block, ranks);
        for (std::size_t layer = 0; layer < 2; ++layer) {
          EXPECT_EQ(found.found[layer].value, alone.found[layer].value);
          EXPECT_EQ(found.found[layer].median_rms, alone.found[layer].median_rms);
        }
      });
      for (std::size_t layer = 0; layer < 2; ++layer) {
        EXPECT_TRUE(at::allclose(at::tensor(alone.found[layer].value, at::kDouble),
                                 at::tensor(cpu.found[layer].value, at::kDouble), 1e-4, 1e-5));
      }
    }
  }
}

// What choose_extraction_packs() says of a device with so much memory for weights and work.
ChosenPacks extraction_packs_within(const std::vector<TokenPair>& pairs, bool block_by_block,
                                    std::uint64_t bytes) {
  ChosenPacks chosen{job_of(enlarged(llama_config()), pairs), ""};
  ExtractionSettings settings = extraction_settings(block_by_block);
  chosen.error = with_device_memory(bytes, [&] {
    return refusal([&] { choose_extraction_packs(chosen.job, pairs, settings); });
  });
  EXPECT_EQ(settings.device_pack, chosen.job.device_pack);
  return chosen;
}

// What is refused would fail.
TEST(ExtractionRoom, RefusesAPairThatHasCertainlyNone) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({200, 6, 4, 0}, 1);
  for (const bool block_by_block : {true, false}) {
    const auto extract = [&] {
      extract_on(simulated_device(), pairs, kTokensPerDevicePack, block_by_block);
    };
    const std::uint64_t little = most_with([&](std::uint64_t bytes) {
      return !extraction_packs_within(pairs, block_by_block, bytes).error.empty();
    });
    const std::string error = extraction_packs_within(pairs, block_by_block, little).error;
    EXPECT_NE(error.find("made up:1: the extraction's pass over this pair alone, 210 tokens,"),
              std::string::npos)
        << error;
    SimulatedMemory::get().reset_peak(0);
    const std::int64_t before = device_bytes_in_use();
    extract();
    EXPECT_GT(static_cast<double>(little),
              0.2 * static_cast<double>(device_bytes_at_peak() - before));
    EXPECT_THROW(with_device_memory(little, extract), c10::OutOfMemoryError);
  }
}

// Packs become smaller only where the usual ones would fail.
TEST(ExtractionRoom, TakesSmallerPacksWhereOthersHaveNone) {
  at::set_num_threads(1);
  const std::vector<TokenPair> pairs = pairs_of({12, 6, 4, 2}, 80);
  for (const bool block_by_block : {true, false}) {
    const auto extract = [&](std::int64_t pack) {
      return extract_on(simulated_device(), pairs, pack, block_by_block).found;
    };
    const std::uint64_t little = most_with([&](std::uint64_t bytes) {
      const ChosenPacks chosen = extraction_packs_within(pairs, block_by_block, bytes);
      return !chosen.error.empty() || chosen.job.device_pack < kTokensPerDevicePack;
    });
    const JobPreparation job = extraction_packs_within(pairs, block_by_block, little).job;
    ASSERT_EQ(job.warnings.size(), 1U);
    EXPECT_NE(job.warnings.front().find("the extraction's pass takes packs of"), std::string::npos);
    EXPECT_GE(job.device_pack, 64);
    EXPECT_THROW(with_device_memory(little, [&] { return extract(kTokensPerDevicePack); }),
                 c10::OutOfMemoryError);
    const std::vector<ExtractedDirection> found = with_device_memory(
        little, [&] { return extract(job.device_pack); });  // throws if it does not fit
    const std::vector<ExtractedDirection> usual = extract(kTokensPerDevicePack);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::allclose(at::tensor(found[layer].value, at::kDouble),
                               at::tensor(usual[layer].value, at::kDouble), 1e-4, 1e-5));
    }

    const JobPreparation enough = extraction_packs_within(pairs, block_by_block, little + 1).job;
    EXPECT_EQ(enough.device_pack, kTokensPerDevicePack);
    EXPECT_TRUE(enough.warnings.empty());
  }
}

// Block by block, the rows of all pairs stay.
TEST(ExtractionRoom, CountsThePairsThatWait) {
  at::set_num_threads(1);
  const auto least = [](std::size_t count, bool block_by_block) {
    const std::vector<TokenPair> pairs = pairs_of({12, 6, 0, 0}, count);
    return most_with([&](std::uint64_t bytes) {
      return !extraction_packs_within(pairs, block_by_block, bytes).error.empty();
    });
  };
  const auto rows =
      static_cast<std::uint64_t>(enlarged(llama_config()).hidden) * 22 * sizeof(float);
  EXPECT_EQ(least(9, true), least(1, true) + 8 * rows);
  EXPECT_EQ(least(9, false), least(1, false));
}

TEST(PlannedKernels, AreThoseOfFlashAttention) {
  at::set_num_threads(1);
  choose_attention(AttentionChoice::kFlash, simulated_device(), at::kBFloat16);
  for (const Block& block :
       {Block{"Llama", flash_config()}, Block{"windows, norms", flash_window_config()}}) {
    const BlockCounts found = counts_of_block(block.config, at::kBFloat16);
    const DeviceKernels planned = block_kernels(block.config, 1, /*bf16=*/true, /*flash=*/true);
    const auto all = static_cast<double>(found.forward.kernels + found.backward.kernels);
    EXPECT_NEAR((planned.forward + planned.backward) / all, 1, 0.1) << block.name;
  }
  choose_attention(AttentionChoice::kAuto, simulated_device(), at::kBFloat16);
}

}  // namespace
}  // namespace bipo::testing
