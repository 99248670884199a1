// The trainer on the simulated device: the CPU's numbers, and how much it asks of the device.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/generation/generation.hpp"
#include "tests/device/block_counts.hpp"
#include "tests/device/device_scenario.hpp"
#include "tests/support/device_communicator.hpp"
#include "tests/support/graphs_in_use.hpp"
#include "tests/support/simulated_device.hpp"
#include "tests/support/simulated_memory.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/loop/device_step.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/operators/attention.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo::testing {
namespace {

double tolerance_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-9 : 2e-4;
}

class DeviceValues : public ::testing::TestWithParam<ModelCase> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }

  DeviceValues() : weights_(GetParam().config()) {}

  Values on(at::Device device, const Ranks& ranks, bool keeps_activations = true) const {
    return run_everything({GetParam().config(), GetParam().type, device, keeps_activations},
                          weights_, ranks);
  }

  Values expected() const { return on(at::kCPU, lone_ranks()); }

  void expect_over_ranks(int tp, int dp, const Values& expected) const {
    std::vector<Values> of_rank(static_cast<std::size_t>(tp * dp));
    run_on_devices(tp, dp, [&](const Ranks& ranks) {
      of_rank[static_cast<std::size_t>(ranks.topology.rank())] =
          on(simulated_device(ranks.topology.rank()), ranks);
    });
    for (Values& values : of_rank) {
      expect_near(values, expected,
                  GetParam().type == at::kDouble ? 1e-6 : tolerance_of(GetParam().type));
      values.erase("activations");
      EXPECT_EQ(values, of_rank.front()) << tp << " x " << dp;
    }
  }

 private:
  RandomWeights weights_;
};

TEST_P(DeviceValues, AreTheCpus) {
  expect_near(on(simulated_device(), lone_ranks()), expected(), tolerance_of(GetParam().type));
}

// One model of each kind of block.
INSTANTIATE_TEST_SUITE_P(Models, DeviceValues,
                         ::testing::Values(ModelCase{"Llama", llama_config, at::kDouble},
                                           ModelCase{"Gemma", gemma_config, at::kFloat},
                                           ModelCase{"Gemma4", gemma4_config, at::kDouble},
                                           ModelCase{"Cohere", cohere_config, at::kDouble},
                                           ModelCase{"Olmo", olmo_config, at::kDouble},
                                           ModelCase{"Glm", glm_config, at::kDouble},
                                           ModelCase{"Scaled", scaled_config, at::kDouble},
                                           ModelCase{"Recurrent", recurrent_config, at::kFloat}),
                         name_of_case);

// Vectors are float32 whatever the passes are.
TEST(DeviceObjectives, AreTheCpus) {
  at::set_num_threads(1);
  constexpr double kTolerance = 1e-6;
  const RandomWeights weights(llama_config());
  const auto on = [&](at::Device device, const Ranks& ranks) {
    return train_objectives({llama_config(), at::kDouble, device, true}, weights, ranks);
  };
  const Values cpu = on(at::kCPU, lone_ranks());
  expect_near(on(simulated_device(), lone_ranks()), cpu, kTolerance);
  std::vector<Values> of_rank(2);
  run_on_devices(/*tp=*/1, /*dp=*/2, [&](const Ranks& ranks) {
    const int rank = ranks.topology.rank();
    of_rank[static_cast<std::size_t>(rank)] = on(simulated_device(rank), ranks);
  });
  expect_near(of_rank[0], cpu, kTolerance);
  EXPECT_EQ(of_rank[0], of_rank[1]);
}

TEST(DeviceValuesComposed, AreTheCpus) {
  at::set_num_threads(1);
  const RandomWeights weights(gemma_config());
  const auto on = [&](at::Device device) {
    return run_everything({gemma_config(), at::kDouble, device, true}, weights, lone_ranks());
  };
  choose_kernels(KernelChoice::kComposed, simulated_device());
  const std::int64_t before = device_kernels()["turn"];
  const Values composed = on(simulated_device());
  EXPECT_EQ(device_kernels()["turn"], before);
  EXPECT_EQ(choose_kernels(KernelChoice::kAuto, simulated_device()), "compiled");
  expect_near(composed, on(at::kCPU), tolerance_of(at::kDouble));
}

using DeviceValuesOverRanks = DeviceValues;

TEST_P(DeviceValuesOverRanks, AreTheSame) {
  expect_over_ranks(2, 1, expected());
}

INSTANTIATE_TEST_SUITE_P(Models, DeviceValuesOverRanks,
                         ::testing::Values(ModelCase{"Gemma4", gemma4_config, at::kDouble},
                                           ModelCase{"Olmo", olmo_config, at::kFloat}),
                         name_of_case);

// Takes minutes: labelled long in CMakeLists.txt.
using AllDeviceValues = DeviceValues;

TEST_P(AllDeviceValues, AreTheCpusKeptOrNot) {
  const Values cpu = expected();
  for (const bool keeps_activations : {true, false}) {
    expect_near(on(simulated_device(), lone_ranks(), keeps_activations), cpu,
                tolerance_of(GetParam().type));
  }
}

TEST_P(AllDeviceValues, AreTheSameOverRanks) {
  const Values cpu = expected();
  for (const auto& [tp, dp] : std::vector<std::pair<int, int>>{{2, 1}, {3, 1}, {1, 2}, {2, 2}}) {
    expect_over_ranks(tp, dp, cpu);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AllDeviceValues, ::testing::ValuesIn(all_model_cases()),
                         name_of_case);

// --- bfloat16 ------------------------------------------------------------------------------------

TEST(DeviceBfloat16, GradientsAreAsFarFromFloat64AsTheCpus) {
  at::set_num_threads(1);
  for (const auto& [name, config] :
       {std::pair("Llama", llama_config()), std::pair("Gemma", gemma_config()),
        std::pair("flash", flash_config()),
        std::pair("flash with windows", flash_window_config())}) {
    const std::int64_t before = device_kernels()["flash_attention_backward"];
    const GradientErrors errors = gradient_errors(config, simulated_device());
    std::printf(
        "%s: gradient's distance from float64 in roundoffs of bfloat16: CPU %.1f, device %.1f\n",
        name, errors.cpu, errors.device);
    EXPECT_LT(errors.device, 1.5 * errors.cpu) << name;
    EXPECT_EQ(device_kernels()["flash_attention_backward"] > before, config.head_size == 8) << name;
  }
}

// Lists of few numbers: their error may be larger than the CPU's by half, or by a quarter of a
// roundoff.
TEST(DeviceBfloat16, ValuesAreAsFarFromFloat64AsTheCpus) {
  at::set_num_threads(1);
  for (const auto& [name, config] :
       {std::pair("Gemma", gemma_config()), std::pair("flash", flash_config())}) {
    const std::int64_t before = device_kernels()["flash_attention"];
    for (const auto& [what, errors] : value_errors(config, simulated_device())) {
      std::printf("%s, %s: distance from float64 in roundoffs of bfloat16: CPU %.2f, device %.2f\n",
                  name, what.c_str(), errors.cpu, errors.device);
      EXPECT_GT(errors.device, 0) << name << ", " << what;
      EXPECT_LT(errors.device, 1.5 * errors.cpu + 0.25) << name << ", " << what;
    }
    EXPECT_EQ(device_kernels()["flash_attention"] > before, config.head_size == 8) << name;
  }
}

// --- generation ----------------------------------------------------------------------------------

struct Generated {
  std::vector<TokenId> tokens;
  std::vector<double> log_probs;
  std::int64_t kernels = 0;  // until the first tokens are chosen
};

// Answers a group of prompts of different lengths at three multipliers.
Generated generate_group(const ModelConfig& config, at::Device device, std::size_t count,
                         const SteeredPositions& positions) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kDouble, device, *ranks.tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const SteeringVectors vectors(
      {{1, std::vector<float>(static_cast<std::size_t>(config.hidden), 0.1F)}}, decoder);
  std::vector<NumberedPrompt> prompts;
  for (std::size_t p = 0; p < count; ++p) {
    NumberedPrompt& prompt = prompts.emplace_back();
    prompt.number = static_cast<std::int64_t>(p);
    for (std::size_t i = 0; i <= (3 * p) % 5; ++i) {
      prompt.tokens.push_back(static_cast<TokenId>(4 + (5 * p + i) % 25));
    }
  }
  GenerationSettings settings;
  settings.multipliers = {{-1.0}, {0.0}, {2.0}};
  settings.max_new_tokens = 4;
  settings.positions = positions;
  TextGenerator generator(decoder, vectors, settings,
                          generation_room(config, prompts, std::ssize(prompts), settings),
                          [](std::int64_t, std::int64_t, TokenId) {});
  generator.add(prompts);
  const DeviceCounts before = device_counts();
  std::vector<PromptAnswers> answers = generator.step();
  Generated generated;
  generated.kernels = (device_counts() - before).kernels;
  while (generator.unfinished() > 0) {
    for (PromptAnswers& answered : generator.step()) {
      answers.push_back(std::move(answered));
    }
  }
  for (const PromptAnswers& answered : answers) {  // a group ends together, in order
    for (const GeneratedText& text : answered.texts) {
      generated.tokens.insert(generated.tokens.end(), text.tokens.begin(), text.tokens.end());
      generated.log_probs.push_back(text.log_prob);
    }
  }
  return generated;
}

TEST(DeviceGeneration, RunsThePromptsOfAGroupTogether) {
  at::set_num_threads(1);
  for (const ModelConfig& config : {llama_config(), gemma_config(), recurrent_config()}) {
    for (const SteeredPositions& positions :
         {SteeredPositions(SteeredPositions::kAll), SteeredPositions(SteeredPositions::kAnswer)}) {
      const Generated found = generate_group(config, simulated_device(), 8, positions);
      const Generated expected = generate_group(config, at::kCPU, 8, positions);
      EXPECT_EQ(found.tokens, expected.tokens);
      ASSERT_EQ(found.log_probs.size(), expected.log_probs.size());
      for (std::size_t i = 0; i < found.log_probs.size(); ++i) {
        EXPECT_NEAR(found.log_probs[i], expected.log_probs[i], 1e-9) << i;
      }
      if (!config.delta_net) {
        const Generated few = generate_group(config, simulated_device(), 2, positions);
        EXPECT_LT(found.kernels, 1.5 * static_cast<double>(few.kernels));
      }
    }
  }
}

// --- flash attention -----------------------------------------------------------------------------

// What a prompt that two pairs share, the rests of their prompts and their answers see.
const std::vector<SequencePart> kParts = {{{0, 4}, {}},
                                          {{4, 9}, {{0, 4}}},
                                          {{9, 15}, {{0, 4}, {4, 9}}},
                                          {{15, 16}, {{0, 4}, {4, 9}}},
                                          {{16, 18}, {{0, 4}}},
                                          {{18, 25}, {{0, 4}, {16, 18}}},
                                          {{25, 28}, {{0, 4}, {16, 18}}}};
const std::vector<std::int64_t> kPositions = {0,  1, 2, 3, 4, 5, 6, 7, 8,  9,  10, 11, 12, 13,
                                              14, 9, 4, 5, 6, 7, 8, 9, 10, 11, 12, 6,  7,  8};
const std::vector<std::int64_t> kAnswerRows = {8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 25, 26};

struct Attended {
  at::Tensor all;      // self_attention()
  at::Tensor answers;  // attention()
  at::Tensor d_qkv;    // of both
};

// H = 6 heads of size 16 over Hkv, with a window of so many keys.
Attended attended(const at::Tensor& qkv, std::int64_t kv_heads, std::int64_t window,
                  at::ScalarType type, at::Device device) {
  auto heads = std::make_shared<AttentionHeads>();
  heads->head_size = 16;
  heads->kv_heads = kv_heads;
  heads->scale = 0.3;
  for (std::int64_t head = 0; head < 6; ++head) {
    heads->kv_head_of_query.push_back(head * kv_heads / 6);
  }
  set_head_tables(*heads, at::TensorOptions().dtype(type).device(device));
  ModelConfig config = flash_config();
  config.head_size = 16;
  config.attention_kinds.front().window = window;
  const AttentionLayout layout = LayoutBuilder(config, type, device, {!device.is_cpu()})
                                     .packed(kPositions, kParts, kAnswerRows)
                                     .kinds.front();
  const at::Tensor leaf =
      qkv.to(at::TensorOptions().dtype(type).device(device)).detach().set_requires_grad(true);
  Attended result;
  result.all = self_attention(leaf, heads, layout.all);
  const at::Tensor rows = at::tensor(kAnswerRows).to(device);
  result.answers =
      attention(leaf.index_select(0, rows).narrow(1, 0, 6 * 16),
                leaf.narrow(1, 6 * 16, 2 * kv_heads * 16), heads, layout.answers, layout.all);
  const auto upstream = [](const at::Tensor& x) {
    return at::arange(x.numel(), at::kDouble).mul_(0.37).sin_().view(x.sizes()).to(x.options());
  };
  (result.all.to(type) * upstream(result.all.to(type))).sum().backward();
  (result.answers.to(type) * upstream(result.answers.to(type))).sum().backward();
  result.d_qkv = leaf.grad();
  return result;
}

// Queries, keys, values, weights, their gradients and the result are rounded once each.
TEST(DeviceFlash, IsAttentionOfTheSpansWithinRoundoff) {
  at::manual_seed(3);
  const auto distance = [](const at::Tensor& found, const at::Tensor& exact) {
    const at::Tensor difference = found.detach().to(at::kCPU, at::kDouble) - exact.detach();
    return (difference.norm() / exact.detach().norm()).item<double>() * 256;
  };
  for (const std::int64_t kv_heads : {6, 2}) {
    for (const std::int64_t window : {0, 1, 3, 8}) {
      const at::Tensor qkv = at::randn({28, (6 + 2 * kv_heads) * 16}, at::kDouble);
      const std::int64_t before = device_kernels()["flash_attention"];
      const Attended found = attended(qkv, kv_heads, window, at::kFloat, simulated_device());
      EXPECT_EQ(device_kernels()["flash_attention"], before + 2);
      EXPECT_EQ(found.all.scalar_type(), at::kBFloat16);
      const Attended exact = attended(qkv, kv_heads, window, at::kDouble, at::kCPU);
      for (const auto& [what, error] :
           {std::pair("all", distance(found.all, exact.all)),
            std::pair("answers", distance(found.answers, exact.answers)),
            std::pair("gradient", distance(found.d_qkv, exact.d_qkv))}) {
        std::printf("%d key heads, window %d: %s: %.2f roundoffs\n", static_cast<int>(kv_heads),
                    static_cast<int>(window), what, error);
        EXPECT_LT(error, 2) << what << ", window " << window;
      }
    }
  }
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
}

// The cache of keys that generation reads is attended to in slots, in float32.
TEST(DeviceFlash, RunsEverythingOverRanksToo) {
  at::set_num_threads(1);
  const RandomWeights weights(flash_window_config());
  const auto on = [&](const Ranks& ranks, int index) {
    Values values = run_everything(
        {flash_window_config(), at::kBFloat16, simulated_device(index), true}, weights, ranks);
    values.erase("activations");
    return values;
  };
  const Values alone = on(lone_ranks(), 0);
  EXPECT_EQ(on(lone_ranks(), 0), alone);
  std::vector<Values> of_rank(2);
  run_on_devices(2, 1, [&](const Ranks& ranks) {
    const int rank = ranks.topology.rank();
    of_rank[static_cast<std::size_t>(rank)] = on(ranks, rank);
  });
  EXPECT_EQ(of_rank[1], of_rank[0]);
}

TEST(DeviceFlash, IsRefusedWhereItCannotRun) {
  const at::Device device = simulated_device();
  const auto error_of = [&](const ModelConfig& config) -> std::string {
    const RandomWeights weights(config);
    const Ranks ranks = lone_ranks();
    try {
      const Decoder decoder(config, weights, at::kBFloat16, device, *ranks.tp);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THROW(choose_attention(AttentionChoice::kFlash, at::kCPU, at::kBFloat16), UserError);
  EXPECT_THROW(choose_attention(AttentionChoice::kFlash, device, at::kFloat), UserError);
  choose_kernels(KernelChoice::kComposed, device);
  EXPECT_THROW(choose_attention(AttentionChoice::kFlash, device, at::kBFloat16), UserError);
  choose_kernels(KernelChoice::kAuto, device);
  choose_attention(AttentionChoice::kFlash, device, at::kBFloat16);
  EXPECT_EQ(error_of(flash_config()), "");
  EXPECT_NE(error_of(llama_config()).find("4 numbers"), std::string::npos);
  EXPECT_NE(error_of(gemma_config()).find("caps its attention scores"), std::string::npos);
  choose_attention(AttentionChoice::kAuto, device, at::kBFloat16);
  EXPECT_EQ(error_of(gemma_config()), "");
}

TEST(DeviceFlash, RunsWhereItIsChosen) {
  const RandomWeights weights(flash_config());
  const auto kernels_of = [&](AttentionChoice choice, at::ScalarType type) {
    choose_attention(choice, simulated_device(), type);
    const std::int64_t before = device_kernels()["flash_attention"];
    first_gradient({flash_config(), type, simulated_device(), true}, weights, 1);
    return device_kernels()["flash_attention"] - before;
  };
  EXPECT_EQ(kernels_of(AttentionChoice::kComposed, at::kBFloat16), 0);
  EXPECT_EQ(kernels_of(AttentionChoice::kAuto, at::kFloat), 0);
  EXPECT_GT(kernels_of(AttentionChoice::kAuto, at::kBFloat16), 0);
}

// --- what is asked of the device -----------------------------------------------------------------

TEST(DeviceBudget, OfABlock) {
  struct Budget {
    const char* name;
    ModelConfig config;
    at::ScalarType type;
    std::int64_t forward;
    std::int64_t backward;
  };
  for (const Budget& budget :
       {Budget{"Llama", llama_config(), at::kFloat, 13, 15},
        Budget{"Llama", llama_config(), at::kBFloat16, 13, 17},
        Budget{"Qwen", qwen_config(), at::kFloat, 14, 15},
        Budget{"Qwen", qwen_config(), at::kBFloat16, 14, 17},
        Budget{"Gemma", gemma_config(), at::kBFloat16, 17, 23},
        Budget{"Gemma 4", gemma4_config(), at::kFloat, 16, 18},
        Budget{"Gemma 4, flash", gemma4_config(), at::kBFloat16, 13, 25},
        Budget{"Olmo", olmo_config(), at::kFloat, 13, 15},
        Budget{"Olmo", olmo_config(), at::kBFloat16, 15, 17},
        Budget{"Cohere", cohere_config(), at::kBFloat16, 13, 17},
        Budget{"Glm", glm_config(), at::kBFloat16, 15, 19},
        Budget{"recurrent", recurrent_config(), at::kFloat, 14, 18},
        Budget{"recurrent", recurrent_config(), at::kBFloat16, 14, 20},
        Budget{"flash", flash_config(), at::kBFloat16, 10, 22},
        Budget{"flash, Qwen", flash_window_config(), at::kBFloat16, 10, 22}}) {
    const BlockCounts counts = counts_of_block(budget.config, budget.type);
    std::printf("%s %s: %d kernels forward, %d backward\n", budget.name, c10::toString(budget.type),
                static_cast<int>(counts.forward.kernels),
                static_cast<int>(counts.backward.kernels));
    EXPECT_LE(counts.forward.kernels, budget.forward) << budget.name;
    EXPECT_LE(counts.backward.kernels, budget.backward) << budget.name;
    EXPECT_EQ(counts.forward.waits, 0) << budget.name;
    EXPECT_EQ(counts.backward.waits, 0) << budget.name;
  }
}

// A model on the device with a filled cache.
struct World : FilledWorld<> {
  explicit World(const ModelConfig& model, ActivationPlace place = ActivationPlace::kAuto)
      : World(model, lone_ranks(), place) {}

  World(const ModelConfig& model, Ranks of_world, ActivationPlace place)
      : World(model, simulated_device(of_world.topology.rank()), std::move(of_world), place) {}

  static CacheSettings settings(ActivationPlace place) {
    CacheSettings result;
    result.place = place;
    result.layers = {1};
    return result;
  }

  DeviceCounts of_training(std::int64_t epochs, const PlanSettings& plan = training_plan()) {
    TrainingSettings settings = training_settings(2, 11, 0.05, 0.1, SignRule::kBatch);
    settings.plan = plan;
    settings.plan.epochs = epochs;
    TrainingRecord record = starting_record(config.hidden, 11);
    QuietObserver observer;
    const DeviceCounts before = device_counts();
    train(decoder, cache, nullptr, 1, {{settings, record, observer}}, ranks);
    vector = record.checkpoint.vector;
    return device_counts() - before;
  }

  // The second epoch of kSteps steps.
  DeviceCounts of_epoch(const PlanSettings& plan = training_plan()) {
    return of_training(2, plan) - of_training(1, plan);
  }

  static PlanSettings training_plan() {
    PlanSettings plan = training_settings(2, 11, 0.05, 0.1, SignRule::kBatch).plan;
    plan.micro_batch = plan.batch_size;
    return plan;
  }

  std::vector<float> vector;  // of the last training

 private:
  World(const ModelConfig& model, at::Device device, Ranks&& of_world, ActivationPlace place)
      : FilledWorld(model, at::kFloat, device, settings(place), std::move(of_world)) {}
};

constexpr int kSteps = 3;  // of an epoch

void print_counts(const char* what, const DeviceCounts& counts) {
  std::printf("%s: %.1f kernels, %.1f copies to the device, %.1f host reads, %.1f waits a step\n",
              what, counts.kernels / double{kSteps}, counts.copies_to_device / double{kSteps},
              counts.host_reads() / double{kSteps}, counts.waits / double{kSteps});
}

TEST(DeviceBudget, OfAStep) {
  World world(llama_config());
  const DeviceCounts later = world.of_epoch();
  print_counts("one micro-batch", later);
  EXPECT_LE(later.copies_to_device, 2 * kSteps);  // vectors; tables of what comes next
  EXPECT_LE(later.host_reads(), kSteps);
  EXPECT_LE(later.waits, kSteps);
  EXPECT_LE(later.kernels, 156 * kSteps);

  // A plan that repeats: its tables stay on the device, for both signs.
  PlanSettings plan = World::training_plan();
  plan.shuffle = false;
  plan.micro_batch = 2;
  const DeviceCounts repeated = world.of_epoch(plan);
  print_counts("a plan that repeats", repeated);
  EXPECT_LE(repeated.copies_to_device, kSteps);  // the vectors alone
  EXPECT_LE(repeated.host_reads(), kSteps);
  EXPECT_LE(repeated.waits, kSteps);
}

// On a device that has no more memory than the training takes, tables may have a sixteenth of it.
TEST(DeviceBudget, TablesBeyondTheirBudgetAreSentInEveryEpoch) {
  World world(llama_config(), ActivationPlace::kHost);
  PlanSettings plan = World::training_plan();
  plan.shuffle = false;
  plan.micro_batch = 2;
  constexpr std::int64_t kMicroBatches = 6;  // of an epoch
  SimulatedMemory::get().reset_peak(0);
  const std::int64_t before = device_bytes_in_use();
  const DeviceCounts within = world.of_epoch(plan);
  const std::int64_t taken = device_bytes_at_peak() - before;
  const std::vector<float> vector = world.vector;
  EXPECT_EQ(within.copies_to_device, kSteps + kMicroBatches);  // vectors, activations
  set_device_memory(before + taken + taken / 16);
  const DeviceCounts beyond = world.of_epoch(plan);
  set_device_memory(std::int64_t{1} << 40);
  EXPECT_GT(beyond.copies_to_device, within.copies_to_device);
  EXPECT_LE(beyond.copies_to_device, within.copies_to_device + kMicroBatches);
  EXPECT_LE(beyond.waits, kSteps);
  EXPECT_EQ(world.vector, vector);
}

// Operators that add in no order on CUDA, so that a run would not repeat to the bit.
TEST(DeviceBudget, NothingIsAddedInNoOrder) {
  for (const ModelConfig& config : {llama_config(), gemma_config(), recurrent_config()}) {
    World world(config);
    const auto before = device_kernels();
    world.of_training(1);
    auto after = device_kernels();
    for (const auto& [name, count] : before) {
      after[name] -= count;
    }
    EXPECT_GT(after["aten::_index_put_impl_"], 0);  // the head's sums
    EXPECT_EQ(after[kUnorderedSum], 0);
  }
}

TEST(DeviceBudget, OfAStepOverRanks) {
  run_on_devices(/*tp=*/2, /*dp=*/2, [&](Ranks& ranks) {
    World world(llama_config(), std::move(ranks), ActivationPlace::kAuto);
    PlanSettings plan = World::training_plan();
    plan.micro_batch = 1;
    const DeviceCounts later = world.of_epoch(plan);
    EXPECT_LE(later.host_reads(), kSteps);
    EXPECT_LE(later.waits, kSteps);
  });
}

TEST(DeviceBudget, ActivationsAreOnTheDeviceWhereTheyFit) {
  World on_device(llama_config(), ActivationPlace::kDevice);
  World on_host(llama_config(), ActivationPlace::kHost);
  const DeviceCounts of_device = on_device.of_epoch();
  const DeviceCounts of_host = on_host.of_epoch();
  EXPECT_EQ(of_host.copies_to_device, of_device.copies_to_device + kSteps);
  EXPECT_LE(of_host.waits, kSteps);
  EXPECT_EQ(on_device.vector, on_host.vector);

  World automatic(llama_config());
  const auto rows = static_cast<std::int64_t>(
      ActivationCache::bytes_needed(automatic.config.hidden, automatic.pairs, at::kFloat));
  const std::int64_t used = device_bytes_in_use();
  EXPECT_TRUE(automatic.cache.rows_on_device(automatic.decoder, 1).defined());
  set_device_memory(used + rows);
  EXPECT_FALSE(automatic.cache.rows_on_device(automatic.decoder, 1).defined());
  set_device_memory(used + rows / 2);
  EXPECT_THROW(on_device.cache.rows_on_device(on_device.decoder, 1), UserError);
  set_device_memory(std::int64_t{1} << 40);
}

// --- graphs --------------------------------------------------------------------------------------

std::int64_t replays() {
  const auto kernels = device_kernels();
  const auto found = kernels.find("graph");
  return found == kernels.end() ? 0 : found->second;
}

// Training, resuming, packs, all objectives, plans that repeat: a graph leaves the bits of its
// work, which is that of the CPU but for rounding.
TEST(DeviceGraphs, LeaveTheBitsOfTheirWork) {
  at::set_num_threads(1);
  const Ranks ranks = lone_ranks();
  struct Case {
    ModelConfig config;
    at::ScalarType type;
  };
  for (const Case& one : {Case{llama_config(), at::kDouble}, Case{gemma_config(), at::kDouble},
                          Case{flash_window_config(), at::kBFloat16}}) {
    const RandomWeights weights(one.config);
    const auto trained = [&](at::Device device) {
      const Scenario scenario{one.config, one.type, device, true};
      Values values = train_objectives(scenario, weights, ranks);
      if (one.config.attention_kinds.size() == 1) {
        values.merge(run_everything(scenario, weights, ranks));
      }
      return values;
    };
    Values unrecorded;
    {
      const GraphsInUse graphs(simulated_device(), /*refuses=*/true);
      const std::int64_t before = replays();
      unrecorded = trained(simulated_device());
      EXPECT_GT(graphs.records(), 0);
      EXPECT_EQ(replays(), before);
    }
    const GraphsInUse graphs(simulated_device());
    const std::int64_t before = replays();
    const Values found = trained(simulated_device());
    EXPECT_GT(graphs.graphs(), 0);
    EXPECT_EQ(graphs.graphs(), graphs.records());
    EXPECT_GE(replays() - before, graphs.graphs());
    EXPECT_EQ(found, unrecorded);
    if (one.type == at::kDouble) {
      expect_near(found, trained(at::kCPU), 1e-6);
    }
  }
}

TEST(DeviceGraphs, LeaveTheSameOverReplicas) {
  at::set_num_threads(1);
  const RandomWeights weights(llama_config());
  const GraphsInUse graphs(simulated_device());
  const auto on = [&](const Ranks& ranks, int index) {
    return train_objectives({llama_config(), at::kDouble, simulated_device(index), true}, weights,
                            ranks);
  };
  const Values alone = on(lone_ranks(), 0);
  std::vector<Values> of_rank(2);
  run_on_devices(/*tp=*/1, /*dp=*/2, [&](const Ranks& ranks) {
    const int rank = ranks.topology.rank();
    of_rank[static_cast<std::size_t>(rank)] = on(ranks, rank);
  });
  EXPECT_EQ(of_rank[0], of_rank[1]);
  expect_near(of_rank[0], alone, 1e-6);
}

TEST(DeviceGraphs, AreReplayedFromTheThirdTimeOn) {
  const GraphsInUse graphs(simulated_device());
  for (const ActivationPlace place : {ActivationPlace::kDevice, ActivationPlace::kHost}) {
    World world(llama_config(), place);
    PlanSettings plan = World::training_plan();
    plan.shuffle = false;
    plan.sign = SignRule::kPlus;
    // An epoch has kSteps shapes at most: run, recorded and replayed, replayed.
    const std::int64_t before = replays();
    const DeviceCounts third = world.of_training(3, plan) - world.of_training(2, plan);
    EXPECT_GE(replays() - before, 3 * kSteps);
    print_counts("graphs, a plan that repeats", third);
    // Tables, activations from the host, the graph, its results, what the host reads of them.
    const std::int64_t from_host = place == ActivationPlace::kHost ? 1 : 0;
    EXPECT_LE(third.kernels, (4 + from_host) * kSteps);
    EXPECT_LE(third.copies_to_device, (1 + from_host) * kSteps);
    EXPECT_LE(third.host_reads(), kSteps);
    EXPECT_LE(third.waits, kSteps);
  }
}

// The first rows and targets are those of the exact batch.
TEST(DeviceGraphs, WhatFillsABatchUpIsNotSeenAndHasNoGradient) {
  at::set_num_threads(1);
  at::manual_seed(5);
  const Ranks ranks = lone_ranks();
  const std::vector<TokenPair> pairs = varied_pairs(11);
  const std::vector<PackItem> items = {{2, {0, 1, 1}}, {7, {0, 1, 1}}, {0, {0, -1, 0.5}}};
  for (const ModelConfig& config : {llama_config(), gemma_config(), flash_window_config()}) {
    const RandomWeights weights(config);
    Decoder decoder(config, weights, at::kDouble, simulated_device(), *ranks.tp);
    decoder.load_blocks({0, config.blocks});
    const PackedPairs exact = pack_pairs(pairs, items, decoder);
    const std::shared_ptr<UnsentPairs> rounded =
        pack_unsent(pairs, items, decoder, {}, /*rounds=*/true);
    rounded->upload.send(simulated_device());
    rounded->finish();
    const std::int64_t rows = exact.tokens();
    const std::int64_t targets = exact.targets.size(0);
    EXPECT_GT(rounded->packed.tokens(), rows);
    EXPECT_EQ(rounded->packed.tokens(), rounded_size(rounded->packed.tokens()));
    EXPECT_EQ(rounded->packed.targets.size(0), rounded_size(rounded->packed.targets.size(0)));
    const at::Tensor hidden =
        at::randn({rounded->packed.tokens(), config.hidden}, at::kDouble).to(simulated_device());
    const auto pass = [&](const PackedPairs& packed) {
      at::Tensor leaf = hidden.narrow(0, 0, packed.tokens()).clone();
      leaf.set_requires_grad(true);
      const at::Tensor log_probs = decoder.next_token_log_probs(
          decoder.run_to_answers(leaf, 1, packed.layout), packed.row_of_target, packed.targets);
      const at::Tensor slopes = at::zeros(log_probs.sizes(), log_probs.options());
      slopes.narrow(0, 0, targets).fill_(1);
      log_probs.backward(slopes);
      return std::pair(log_probs.detach().cpu(), leaf.grad().cpu());
    };
    const auto [log_probs, gradient] = pass(exact);
    const auto [more_log_probs, more_gradient] = pass(rounded->packed);
    EXPECT_TRUE(at::allclose(more_log_probs.narrow(0, 0, targets), log_probs, 1e-10, 1e-10));
    EXPECT_TRUE(at::allclose(more_gradient.narrow(0, 0, rows), gradient, 1e-9, 1e-10));
    EXPECT_EQ(
        more_gradient.narrow(0, rows, more_gradient.size(0) - rows).abs().sum().item<double>(), 0);
    EXPECT_GT(gradient.abs().sum().item<double>(), 0);
  }
}

TEST(DeviceGraphs, AreNotUsedWhereTheWorkCannotBeRecorded) {
  const ModelConfig config = llama_config();
  EXPECT_EQ(graph_obstacle(config, simulated_device(), 1, true), "");
  EXPECT_NE(graph_obstacle(config, simulated_device(), 2, true).find("--tp"), std::string::npos);
  EXPECT_NE(graph_obstacle(config, simulated_device(), 1, false).find("not kept"),
            std::string::npos);
  EXPECT_NE(graph_obstacle(recurrent_config(), simulated_device(), 1, true).find("recurrent"),
            std::string::npos);
  EXPECT_NE(graph_obstacle(config, at::kCPU, 1, true), "");
}

// The host knows the positions by which queries grow: it need not ask the device.
TEST(DeviceBudget, GrowingQueriesAreNotWaitedFor) {
  World world(scaled_config());
  const DeviceCounts later = world.of_epoch();
  EXPECT_LE(later.waits, kSteps);
  EXPECT_LE(later.copies_to_device, 2 * kSteps);
}

}  // namespace
}  // namespace bipo::testing
