// Vectors with parts at several layers, and vectors at the outputs of MLPs, against central
// differences, against each layer by itself and a naive decoder, and against themselves after a
// stop.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/naive_decoder.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/loop/held_out_evaluation.hpp"
#include "trainer/loop/training.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

using testing::FilledWorld;
using testing::ignore_progress;
using testing::QuietObserver;
using testing::tiny_config;
using testing::training_settings;

constexpr std::int64_t kHidden = 20;

// A decoder with filled caches of the activations of each layer.
struct LayeredWorld : FilledWorld<> {
  explicit LayeredWorld(at::ScalarType type = at::kDouble, Site site = Site::kBlock,
                        const ModelConfig& of = tiny_config())
      : FilledWorld(of, type, at::kCPU, settings(type, site)) {}

  static CacheSettings settings(at::ScalarType type, Site site) {
    CacheSettings settings;
    settings.layers = {0, 1, 2};
    settings.site = site;
    // Each layer's are as good as the lowest's, from which they follow.
    settings.type = type == at::kDouble ? type : at::kFloat;
    return settings;
  }
};

// Numbers that float32 holds exactly.
std::vector<float> exact_numbers(std::int64_t count) {
  std::vector<float> numbers;
  for (std::int64_t i = 0; i < count; ++i) {
    numbers.push_back(static_cast<float>(i * 7 % 11 - 5) / 16);
  }
  return numbers;
}

std::vector<float> joined(std::vector<float> lower, const std::vector<float>& upper) {
  lower.insert(lower.end(), upper.begin(), upper.end());
  return lower;
}

// The first step over all pairs from `vector`, and the gradient there, of whose first moment it
// makes a tenth.
StepRow step_from(const LayeredWorld& world, const SteeredLayers& layers, TrainingSettings settings,
                  const std::vector<float>& vector, std::vector<double>* gradient = nullptr) {
  settings.plan.batch_size = 11;
  settings.plan.micro_batch = 4;
  settings.plan.max_steps = 1;
  settings.plan.shuffle = false;
  settings.max_grad_norm = 0;
  settings.eval_every = 0;
  TrainingRecord record = starting_record(std::ssize(vector), settings.plan.seed);
  record.checkpoint.vector = vector;
  QuietObserver observer;
  train(world.decoder, world.cache, nullptr, layers, {{settings, record, observer}}, world.ranks);
  EXPECT_EQ(observer.failure(), "");
  if (gradient != nullptr) {
    for (const float moment : record.checkpoint.exp_avg) {
      gradient->push_back(static_cast<double>(moment) / (1 - settings.optimizer.beta1));
    }
  }
  return record.steps.front();
}

std::vector<TrainingRecord> train_jointly(const LayeredWorld& world, const SteeredLayers& layers,
                                          const std::vector<TrainingSettings>& settings,
                                          std::int64_t last_step = -1,
                                          std::vector<TrainingRecord> records = {}) {
  if (records.empty()) {
    for (const TrainingSettings& member : settings) {
      records.push_back(starting_record(layers.count() * kHidden, member.plan.seed));
    }
  }
  std::vector<QuietObserver> observers(settings.size(), QuietObserver(last_step));
  std::vector<TrainingMember> members;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    members.push_back({settings[i], records[i], observers[i]});
  }
  train(world.decoder, world.cache, &world.cache, layers, members, world.ranks);
  return records;
}

// One member of each objective.
std::vector<TrainingSettings> one_of_each_objective(std::int64_t epochs, SignRule sign) {
  std::vector<TrainingSettings> members;
  for (const std::string& name : objective_names()) {
    members.push_back(training_settings(epochs, 11, 0.05, 0.3, sign));
    members.back().objective.kind = parse_objective(name);
    members.back().objective.reduction = own_reduction(members.back().objective.kind);
  }
  return members;
}

double longest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double longest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    longest = std::max(longest, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return longest;
}

double norm_of_part(const std::vector<float>& vector, std::int64_t part) {
  const auto first = vector.begin() + part * kHidden;
  return vector_norm(std::vector<float>(first, first + kHidden));
}

TEST(SteeredLayers, AscendAndNameTheLowest) {
  const SteeredLayers joint(std::vector<std::int64_t>{1, 4, 9});
  EXPECT_EQ(joint.lowest(), 1);
  EXPECT_EQ(joint.highest(), 9);
  EXPECT_EQ(joint.count(), 3);
  EXPECT_EQ(to_string(joint), "1,4,9");
  EXPECT_EQ(to_string(joint, "+"), "1+4+9");
  EXPECT_EQ(SteeredLayers(7), SteeredLayers(std::vector<std::int64_t>{7}));
  EXPECT_THROW(SteeredLayers(std::vector<std::int64_t>{}), BugError);
  EXPECT_THROW(SteeredLayers(std::vector<std::int64_t>{2, 2}), BugError);
  EXPECT_THROW(SteeredLayers(std::vector<std::int64_t>{4, 1}), BugError);
}

// Compares the gradients of all objectives with central differences in float64, at the numbers
// `checked` of a vector for `layers`.
void expect_central_differences(const LayeredWorld& world, const SteeredLayers& layers,
                                const std::vector<std::size_t>& checked) {
  constexpr float kStep = 1.0F / 4096;  // exact, as are the vector's elements
  const std::vector<float> vector = exact_numbers(layers.count() * kHidden);
  for (const TrainingSettings& settings : one_of_each_objective(1, SignRule::kPair)) {
    std::vector<double> gradient;
    step_from(world, layers, settings, vector, &gradient);
    const double length = vector_norm(gradient);
    EXPECT_GT(length, 1e-3);
    for (const std::size_t i : checked) {
      const auto loss_at = [&](float shift) {
        std::vector<float> shifted = vector;
        shifted[i] += shift;
        return step_from(world, layers, settings, shifted).loss;
      };
      const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
      // Third derivatives times the square of the step; the moment is float32.
      EXPECT_NEAR(gradient[i], slope, 1e-5 * length)
          << to_string(settings.objective.kind) << ", number " << i;
    }
  }
}

// Through the whole model; the last part is at the model's last block.
TEST(JointLayers, GradientsOfAllObjectivesEqualCentralDifferences) {
  expect_central_differences(LayeredWorld(), SteeredLayers(std::vector<std::int64_t>{0, 1, 2}),
                             {3, 27, 44});  // one in each part
}

// A part of zeros changes nothing, so that the other part is alone at its own layer.
TEST(JointLayers, APartBesideZerosIsItsLayerAlone) {
  const LayeredWorld world;
  const SteeredLayers both(std::vector<std::int64_t>{0, 2});
  const std::vector<float> zeros(kHidden, 0.0F);
  const std::vector<float> own = exact_numbers(kHidden);
  for (const TrainingSettings& settings : one_of_each_objective(1, SignRule::kPair)) {
    const auto name = to_string(settings.objective.kind);
    std::vector<double> alone;
    std::vector<double> gradient;
    double loss = step_from(world, 0, settings, own, &alone).loss;
    EXPECT_NEAR(step_from(world, both, settings, joined(own, zeros), &gradient).loss, loss, 1e-12)
        << name;
    double length = vector_norm(alone);
    for (std::size_t i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(gradient[i], alone[i], 1e-6 * length) << name;
    }
    alone.clear();
    gradient.clear();
    loss = step_from(world, 2, settings, own, &alone).loss;
    EXPECT_NEAR(step_from(world, both, settings, joined(zeros, own), &gradient).loss, loss, 1e-12)
        << name;
    length = vector_norm(alone);
    for (std::size_t i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(gradient[kHidden + i], alone[i], 1e-6 * length) << name;
    }
  }
}

TEST(JointLayers, HeldOutPairsAreScoredUnderAllParts) {
  const LayeredWorld world;
  const SteeredLayers both(std::vector<std::int64_t>{0, 2});
  const std::vector<float> zeros(kHidden, 0.0F);
  const std::vector<float> own = exact_numbers(kHidden);
  const ScoringContext context{world.decoder, world.ranks, 4, {}};
  const auto margins = [&](const SteeredLayers& layers, const std::vector<float>& vector) {
    std::vector<double> found;
    for (const EvalRow& row :
         evaluate_pairs(context, world.cache, layers, vector, {-1, 2}, Objective()).rows) {
      found.push_back(row.margin);
    }
    return found;
  };
  const std::vector<double> lower = margins(both, joined(own, zeros));
  const std::vector<double> upper = margins(both, joined(zeros, own));
  const std::vector<double> of_both = margins(both, joined(own, own));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(lower[i], margins(0, own)[i], 1e-12);
    EXPECT_NEAR(upper[i], margins(2, own)[i], 1e-12);
    EXPECT_GT(std::abs(of_both[i] - lower[i]), 1e-6);
    EXPECT_GT(std::abs(of_both[i] - upper[i]), 1e-6);
  }
}

TEST(JointLayers, APackEqualsItsMembersAloneAndContinuesWhereItStopped) {
  const LayeredWorld world;
  const SteeredLayers layers(std::vector<std::int64_t>{0, 2});
  std::vector<TrainingSettings> settings = one_of_each_objective(2, SignRule::kBatch);
  settings[0].positions = parse_positions("answer");
  settings[1].factor = FactorTraining{0.05, 0.5};
  settings[2].plan.factors = {0.5, 2};
  const auto together = train_jointly(world, layers, settings);
  auto parts = train_jointly(world, layers, settings, /*last_step=*/4);
  parts = train_jointly(world, layers, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const TrainingRecord alone = train_jointly(world, layers, {settings[i]}).front();
    const std::vector<float>& vector = alone.checkpoint.vector;
    EXPECT_GT(norm_of_part(vector, 0), 0.05) << i;
    EXPECT_GT(norm_of_part(vector, 1), 0.05) << i;
    EXPECT_LT(longest_difference(together[i].checkpoint.vector, vector), 1e-5) << i;
    EXPECT_NEAR(together[i].evals.back().margin, alone.evals.back().margin, 1e-4) << i;
    EXPECT_EQ(parts[i].checkpoint.vector, together[i].checkpoint.vector) << i;
    EXPECT_EQ(alone.vectors.back().value.size(), 2 * kHidden);
  }
}

TEST(JointLayers, EachPartHasTheNormOfItsRule) {
  const LayeredWorld world(at::kFloat);
  const SteeredLayers layers(std::vector<std::int64_t>{0, 1, 2});
  std::vector<TrainingSettings> settings(2, training_settings(3, 11, 0.05, 0.3, SignRule::kBatch));
  settings[0].norm = {NormRule::kFixed, 0.3};
  settings[1].norm = {NormRule::kMax, 0.2};
  const auto trained = train_jointly(world, layers, settings);
  for (std::int64_t part = 0; part < 3; ++part) {
    EXPECT_NEAR(norm_of_part(trained[0].checkpoint.vector, part), 0.3, 1e-6);
    EXPECT_LE(norm_of_part(trained[1].checkpoint.vector, part), 0.2 * (1 + 1e-6));
  }
  EXPECT_NEAR(trained[0].steps.back().vector_norm, std::sqrt(3) * 0.3, 1e-6);
}

TEST(JointLayers, RandomStartsHaveTheLengthInEachPart) {
  const std::vector<float> start = random_start(kHidden, 2.5, 11, /*parts=*/3);
  ASSERT_EQ(start.size(), 3 * kHidden);
  for (std::int64_t part = 0; part < 3; ++part) {
    EXPECT_NEAR(norm_of_part(start, part), 2.5, 1e-6);
  }
  EXPECT_EQ(std::vector<float>(start.begin(), start.begin() + kHidden),
            random_start(kHidden, 2.5, 11));
  EXPECT_NE(std::vector<float>(start.begin() + kHidden, start.begin() + 2 * kHidden),
            random_start(kHidden, 2.5, 11));
}

TEST(JointLayers, AVectorOfAnotherNumberOfPartsIsRefused) {
  const LayeredWorld world(at::kFloat);
  TrainingRecord record = starting_record(kHidden, 11);
  QuietObserver observer;
  const TrainingSettings settings = training_settings(1, 11, 0.05, 0.3, SignRule::kBatch);
  EXPECT_THROW(
      train(world.decoder, world.cache, nullptr, SteeredLayers(std::vector<std::int64_t>{0, 2}),
            {{settings, record, observer}}, world.ranks),
      BugError);
}

SteeredLayers mlps_of(std::vector<std::int64_t> layers) {
  return SteeredLayers(std::move(layers)).at(Site::kMlp);
}

// Behind every branch are a norm and a factor.
ModelConfig config_with_output_norms() {
  ModelConfig config = tiny_config();
  config.output_norms = true;
  config.residual_scale = 0.5;
  return config;
}

TEST(MlpSite, BlocksBeforeItAreOneFewer) {
  EXPECT_EQ(SteeredLayers(0).blocks_before(), 1);
  EXPECT_EQ(mlps_of({0, 2}).blocks_before(), 0);
  EXPECT_EQ(mlps_of({4}).blocks_before(), 4);
  EXPECT_NE(mlps_of({4}), SteeredLayers(4));
  EXPECT_LT(SteeredPlace(4, Site::kMlp), SteeredPlace(4));
  EXPECT_LT(SteeredPlace(4), SteeredPlace(5, Site::kMlp));
  EXPECT_EQ(layers_text(mlps_of({4})), "the MLP of layer 4");
  EXPECT_EQ(layers_text(mlps_of({4, 6})), "the MLPs of layers 4,6");
  EXPECT_EQ(prefix_text(mlps_of({0, 2})), "the embedding");
  EXPECT_EQ(prefix_text(mlps_of({4})), "blocks 0..3");
  EXPECT_EQ(prefix_text(4), "blocks 0..4");
}

// Under way block by block, and pair by pair where nothing is kept.
TEST(MlpSite, CachesHoldWhatTheBlocksTake) {
  LayeredWorld world(at::kDouble, Site::kMlp);
  world.decoder.load_embedding();
  CacheSettings settings = LayeredWorld::settings(at::kDouble, Site::kMlp);
  settings.keep = false;
  ActivationCache unkept(world.decoder, world.pairs, settings, world.ranks);
  fill_caches(world.decoder, {&unkept}, world.ranks, ignore_progress);
  const PackedPairs packed = pack_alike(world.pairs, {0, 3, 4, 9}, world.decoder);
  for (const std::int64_t layer : {0, 1, 2}) {
    const at::Tensor expected = run_prefix(world.decoder, packed, layer - 1);
    for (const ActivationCache* cache : {&world.cache, &unkept}) {
      EXPECT_TRUE(
          at::allclose(cache->activations(world.decoder, packed, layer), expected, 0, 1e-12))
          << layer;
      EXPECT_NEAR(cache->reference(layer)[3].chosen, world.cache.reference(0)[3].chosen, 1e-10);
    }
  }
}

// A cache without reference ends with the stream that its last layer takes.
TEST(MlpSite, CachesWithoutReferenceEndBeforeTheirLastBlock) {
  const LayeredWorld whole(at::kDouble, Site::kMlp);
  CacheSettings settings = LayeredWorld::settings(at::kDouble, Site::kMlp);
  settings.reference = false;
  Decoder decoder(whole.config, whole.weights, at::kDouble, at::kCPU, *whole.ranks.tp);
  ActivationCache cache(decoder, whole.pairs, settings, whole.ranks);
  fill_caches(decoder, {&cache}, whole.ranks, ignore_progress);
  for (const std::int64_t layer : {0, 1, 2}) {
    EXPECT_TRUE(at::equal(cache.kept_activations(layer), whole.cache.kept_activations(layer)));
    EXPECT_EQ(cache.median_rms(layer), whole.cache.median_rms(layer));
  }
}

// What a cache of each layer finds.
TEST(JointLayers, TheStreamIsMeasuredAtEachOfThem) {
  for (const Site site : {Site::kBlock, Site::kMlp}) {
    const LayeredWorld world(at::kDouble, site);
    const SteeredLayers layers = SteeredLayers({0, 1, 2}).at(site);
    const std::vector<double> found =
        median_rms_of_layers(world.decoder, world.cache, layers, world.ranks);
    ASSERT_EQ(found.size(), 3U);
    for (std::size_t layer = 0; layer < found.size(); ++layer) {
      EXPECT_NEAR(found[layer], world.cache.median_rms(static_cast<std::int64_t>(layer)), 1e-12);
    }
    EXPECT_NE(found[0], found[2]);
  }
}

TEST(MlpSite, GradientsOfAllObjectivesEqualCentralDifferences) {
  expect_central_differences(LayeredWorld(at::kDouble, Site::kMlp, config_with_output_norms()),
                             mlps_of({0, 2}), {3, 27});  // one in each part
}

// Where a factor is all that is behind the MLP, the vector does what the factor times it does at
// the block's output; behind a norm it does not.
TEST(MlpSite, EqualsTheBlocksOutputUnlessANormIsBehindIt) {
  ModelConfig config = tiny_config();
  config.residual_scale = 0.5;
  ASSERT_EQ(mlp_output_factor(config), 0.5);
  EXPECT_EQ(mlp_output_factor(tiny_config()), 1);
  EXPECT_FALSE(mlp_output_factor(config_with_output_norms()).has_value());
  const TrainingSettings settings = training_settings(1, 11, 0.05, 0.3, SignRule::kPair);
  const std::vector<float> vector = exact_numbers(2 * kHidden);
  std::vector<float> half = vector;
  for (float& number : half) {
    number /= 2;
  }
  const SteeredLayers blocks(std::vector<std::int64_t>{0, 2});
  std::vector<double> of_mlp;
  std::vector<double> of_block;
  const LayeredWorld at_blocks(at::kDouble, Site::kBlock, config);
  const LayeredWorld at_mlps(at::kDouble, Site::kMlp, config);
  const double loss = step_from(at_blocks, blocks, settings, half, &of_block).loss;
  EXPECT_NEAR(step_from(at_mlps, mlps_of({0, 2}), settings, vector, &of_mlp).loss, loss, 1e-10);
  const double length = vector_norm(of_mlp);
  EXPECT_GT(length, 1e-3);
  for (std::size_t i = 0; i < of_mlp.size(); ++i) {
    EXPECT_NEAR(of_mlp[i], of_block[i] / 2, 1e-6 * length) << i;
  }
  const LayeredWorld normed_blocks(at::kDouble, Site::kBlock, config_with_output_norms());
  const LayeredWorld normed_mlps(at::kDouble, Site::kMlp, config_with_output_norms());
  EXPECT_GT(std::abs(step_from(normed_blocks, blocks, settings, half).loss -
                     step_from(normed_mlps, mlps_of({0, 2}), settings, vector).loss),
            1e-4);
}

TEST(MlpSite, HeldOutPairsAreScoredAsByANaiveDecoder) {
  const LayeredWorld world(at::kDouble, Site::kMlp, config_with_output_norms());
  const std::vector<float> vector = exact_numbers(2 * kHidden);
  const at::Tensor whole = at::tensor(vector, at::kFloat).to(at::kDouble);
  const double coefficient = -1.5;
  const std::vector<AnswerLogProbs> found =
      world.cache.score({world.decoder, world.ranks, 4, {}}, mlps_of({0, 2}), whole, coefficient);
  testing::NaiveMlpChanges changes;
  for (const std::int64_t part : {0, 1}) {
    const at::Tensor added = coefficient * whole.narrow(0, part * kHidden, kHidden);
    changes[2 * part] = [added](const at::Tensor& output) { return output + added; };
  }
  for (const std::size_t p : {0, 5, 10}) {
    const TokenPair& pair = world.pairs[p];
    const auto summed = [&](const std::vector<TokenId>& answer,
                            const testing::NaiveMlpChanges& at_mlps) {
      std::vector<std::int64_t> ids(pair.prompt.begin(), pair.prompt.end());
      ids.insert(ids.end(), answer.begin(), answer.end());
      const at::Tensor log_probs =
          testing::naive_log_probs(world.config, world.weights, ids, {}, at_mlps);
      double sum = 0;
      for (std::size_t t = pair.prompt.size(); t < ids.size(); ++t) {
        sum += log_probs[static_cast<std::int64_t>(t) - 1][ids[t]].item<double>();
      }
      return sum;
    };
    // Rotary angles are float32 in both.
    EXPECT_NEAR(found[p].chosen, summed(pair.chosen, changes), 1e-6);
    EXPECT_NEAR(found[p].rejected, summed(pair.rejected, changes), 1e-6);
    EXPECT_NEAR(world.cache.reference(0)[p].chosen, summed(pair.chosen, {}), 1e-6);
    EXPECT_GT(std::abs(found[p].chosen - summed(pair.chosen, {})), 1e-3);
  }
}

// A pass that changes what MLPs return adds in another order, which bfloat16 would make visible.
TEST(MlpSite, TheReferenceIsThatOfTheSamePass) {
  const LayeredWorld world(at::kBFloat16, Site::kMlp);
  for (const std::int64_t layer : {0, 1, 2}) {
    EXPECT_NO_THROW(check_zero_vector(world.decoder, world.cache, layer, world.ranks)) << layer;
  }
}

TEST(MlpSite, APackEqualsItsMembersAloneAndContinuesWhereItStopped) {
  const LayeredWorld world(at::kDouble, Site::kMlp, config_with_output_norms());
  const SteeredLayers layers = mlps_of({0, 2});
  std::vector<TrainingSettings> settings = one_of_each_objective(2, SignRule::kBatch);
  settings[0].positions = parse_positions("answer");
  const auto together = train_jointly(world, layers, settings);
  auto parts = train_jointly(world, layers, settings, /*last_step=*/4);
  parts = train_jointly(world, layers, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const TrainingRecord alone = train_jointly(world, layers, {settings[i]}).front();
    EXPECT_GT(norm_of_part(alone.checkpoint.vector, 1), 0.05) << i;
    EXPECT_LT(longest_difference(together[i].checkpoint.vector, alone.checkpoint.vector), 1e-5)
        << i;
    EXPECT_EQ(parts[i].checkpoint.vector, together[i].checkpoint.vector) << i;
  }
}

}  // namespace
}  // namespace bipo
