// Caches of several layers, and vectors trained in one pass, against each by itself.
#include "trainer/loop/training.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/records/best_epoch.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

using testing::FilledWorld;
using testing::ignore_progress;
using testing::lone_ranks;
using testing::QuietObserver;
using testing::RandomWeights;
using testing::tiny_config;
using testing::training_settings;
using testing::varied_pairs;

// Random weights that remember what was read of them.
class WatchedWeights final : public WeightSource {
 public:
  explicit WatchedWeights(const ModelConfig& config) : weights_(config) {}

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    reads.insert({role, block});
    return weights_.read(role, block, slice);
  }
  std::string place(Role role, std::int64_t block) const override {
    return weights_.place(role, block);
  }
  std::uint64_t fingerprint() const override { return weights_.fingerprint(); }

  mutable std::set<std::pair<Role, std::int64_t>> reads;

 private:
  RandomWeights weights_;
};

// A decoder with a filled cache for `layers`.
struct World : FilledWorld<WatchedWeights> {
  explicit World(const CacheSettings& settings, at::ScalarType type = at::kFloat)
      : FilledWorld(tiny_config(), type, at::kCPU, settings) {}
};

CacheSettings for_layers(const std::vector<std::int64_t>& layers) {
  CacheSettings settings;
  settings.layers = layers;
  return settings;
}

at::Tensor rows_of(const World& world, std::int64_t layer) {
  return world.cache.activations(world.decoder, pack_alike(world.pairs, {2, 7, 0}, world.decoder),
                                 layer);
}

TEST(ActivationCache, OnePassServesEveryLayer) {
  const World all(for_layers({0, 1, 2}));
  for (const std::int64_t layer : {0, 1, 2}) {
    const World alone(for_layers({layer}));
    EXPECT_TRUE(rows_of(all, layer).equal(rows_of(alone, layer))) << layer;
    EXPECT_EQ(all.cache.median_rms(layer), alone.cache.median_rms(layer));
    for (std::size_t p = 0; p < all.pairs.size(); ++p) {
      EXPECT_EQ(all.cache.reference(layer)[p].chosen, alone.cache.reference(layer)[p].chosen);
      EXPECT_EQ(all.cache.reference(layer)[p].rejected, alone.cache.reference(layer)[p].rejected);
    }
  }
}

TEST(ActivationCache, LeavesOnlyTheSuffixOfTheLowestLayer) {
  const World world(for_layers({1, 2}));
  const auto suffix =
      Decoder::weight_bytes(world.config, 1, 0, at::kFloat, at::kCPU, {2, 3}, /*embedding=*/false);
  EXPECT_EQ(world.decoder.loaded_bytes(), suffix + 20 * sizeof(float));
}

TEST(ActivationCache, ComputesAnewWhatItDoesNotKeep) {
  CacheSettings settings = for_layers({1});
  const World kept(settings);
  settings.keep = false;
  const World recomputed(settings);
  EXPECT_TRUE(rows_of(kept, 1).equal(rows_of(recomputed, 1)));
  EXPECT_EQ(kept.cache.reference(1)[4].rejected, recomputed.cache.reference(1)[4].rejected);
}

TEST(ActivationCache, SharedBeginningsAreTakenFromAnyOfThePairs) {
  const World world(for_layers({1}));
  const PackedPairs together = pack_alike(world.pairs, {2, 7}, world.decoder);
  const PackedPairs alone = pack_alike(world.pairs, {7}, world.decoder);
  const at::Tensor of_both = world.cache.activations(world.decoder, together, 1);
  const at::Tensor of_one = world.cache.activations(world.decoder, alone, 1);
  // The tree is [3 shared | 2 by itself | 7 by itself]; alone, 7 begins with the shared tokens.
  const std::int64_t own = alone.tokens() - 3;
  EXPECT_TRUE(of_both.narrow(0, together.tokens() - own, own).equal(of_one.narrow(0, 3, own)));
  EXPECT_LT((of_both.narrow(0, 0, 3) - of_one.narrow(0, 0, 3)).abs().max().item<float>(), 1e-5);
}

// Weights whose last block gives nothing that is a number.
class NanBehind final : public WeightSource {
 public:
  explicit NanBehind(const ModelConfig& config) : weights_(config), last_(config.blocks - 1) {}

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor read = weights_.read(role, block, slice);
    return block == last_ ? at::full_like(read, std::nan("")) : read;
  }
  std::string place(Role role, std::int64_t block) const override {
    return weights_.place(role, block);
  }
  std::uint64_t fingerprint() const override { return weights_.fingerprint(); }

 private:
  RandomWeights weights_;
  std::int64_t last_;
};

TEST(ActivationCache, WithoutReferenceNoBlockBehindTheLayersRuns) {
  const ModelConfig config = tiny_config();
  const NanBehind weights(config);
  const Ranks ranks = lone_ranks();
  const std::vector<TokenPair> pairs = varied_pairs(11);
  const World usual(for_layers({0, 1}));
  for (const bool keep : {true, false}) {
    CacheSettings settings = for_layers({0, 1});
    settings.keep = keep;
    Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
    ActivationCache with(decoder, pairs, settings, ranks);
    EXPECT_THROW(fill_caches(decoder, {&with}, ranks, ignore_progress), AgreedFailure);
    settings.reference = false;
    ActivationCache without(decoder, pairs, settings, ranks);
    fill_caches(decoder, {&without}, ranks, ignore_progress);
    const PackedPairs packed = pack_alike(pairs, {2, 7, 0}, decoder);
    for (const std::int64_t layer : {0, 1}) {
      EXPECT_TRUE(without.activations(decoder, packed, layer).equal(rows_of(usual, layer)));
      EXPECT_EQ(without.median_rms(layer), usual.cache.median_rms(layer));
      EXPECT_THROW(without.reference(layer), BugError);
    }
  }
}

// Beside one with it, as held-out pairs are, of the last block too.
TEST(ActivationCache, OnePassFillsCachesWithAndWithoutReference) {
  const World usual(for_layers({1, 2}));
  const std::vector<TokenPair> others = varied_pairs(5);
  Decoder decoder(usual.config, usual.weights, at::kFloat, at::kCPU, *usual.ranks.tp);
  CacheSettings settings = for_layers({1, 2});
  ActivationCache held_out(decoder, usual.pairs, settings, usual.ranks);
  settings.reference = false;
  ActivationCache without(decoder, others, settings, usual.ranks);
  fill_caches(decoder, {&without, &held_out}, usual.ranks, ignore_progress);
  for (const std::int64_t layer : {1, 2}) {
    const PackedPairs packed = pack_alike(others, {4, 1}, decoder);
    EXPECT_TRUE(without.activations(decoder, packed, layer)
                    .equal(usual.cache.activations(decoder, packed, layer)));
    for (std::size_t p = 0; p < usual.pairs.size(); ++p) {
      EXPECT_EQ(held_out.reference(layer)[p].chosen, usual.cache.reference(layer)[p].chosen);
    }
  }
}

class CacheFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        std::filesystem::temp_directory_path() /
        ("bipo-cache-" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + "-" +
         std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  CacheSettings settings(std::uint64_t key) const {
    CacheSettings result = for_layers({0, 1});
    result.directory = directory_;
    result.key = key;
    return result;
  }

  std::vector<std::filesystem::path> files() const {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      found.push_back(entry.path());
    }
    return found;
  }

  std::filesystem::path directory_;
};

TEST_F(CacheFiles, TheNextRunOpensWhatTheFirstOneKept) {
  const World first(settings(3));
  EXPECT_FALSE(first.was_filled);
  ASSERT_EQ(files().size(), 2U);
  const World second(settings(3));
  EXPECT_TRUE(second.was_filled);
  EXPECT_TRUE(rows_of(first, 0).equal(rows_of(second, 0)));
  EXPECT_TRUE(rows_of(first, 1).equal(rows_of(second, 1)));
  EXPECT_EQ(first.cache.median_rms(1), second.cache.median_rms(1));
  EXPECT_EQ(first.cache.reference(0)[5].chosen, second.cache.reference(0)[5].chosen);
  const World other(settings(4));
  EXPECT_FALSE(other.was_filled);
}

// A block takes what the one before returns, but the references are by other passes.
TEST_F(CacheFiles, ThoseOfOneSiteAreNotTheOthers) {
  CacheSettings at_mlps = settings(3);
  at_mlps.site = Site::kMlp;
  const World blocks(settings(3));
  const World mlps(at_mlps);
  EXPECT_FALSE(mlps.was_filled);
  EXPECT_EQ(files().size(), 4U);
  EXPECT_TRUE(rows_of(mlps, 1).equal(rows_of(blocks, 0)));
  const World again(at_mlps);
  EXPECT_TRUE(again.was_filled);
  EXPECT_TRUE(rows_of(again, 0).equal(rows_of(mlps, 0)));
  EXPECT_FALSE(rows_of(again, 0).equal(rows_of(blocks, 0)));
  EXPECT_TRUE(World(settings(3)).was_filled);
}

TEST_F(CacheFiles, WhatIsKeptSavesReadingThePrefix) {
  const auto reads_block = [](const World& world, std::int64_t block) {
    return world.weights.reads.count({Role::kQuery, block}) > 0;
  };
  const World first(settings(3));
  EXPECT_TRUE(reads_block(first, 0));
  EXPECT_TRUE(first.weights.reads.count({Role::kEmbedding, 0}) > 0);
  const World second(settings(3));
  EXPECT_FALSE(reads_block(second, 0));
  EXPECT_TRUE(reads_block(second, 1));
  EXPECT_TRUE(reads_block(second, 2));
  EXPECT_FALSE(second.weights.reads.count({Role::kEmbedding, 0}) > 0);
}

// A run that needs no reference opens a file with one, but not the other way round.
TEST_F(CacheFiles, WithoutReferenceAreOthersThatTheirOwnKindOpens) {
  CacheSettings free = settings(3);
  free.reference = false;
  { const World first(free); }
  EXPECT_EQ(files().size(), 2U);
  const World again(free);
  EXPECT_TRUE(again.was_filled);
  const World with(settings(3));
  EXPECT_FALSE(with.was_filled);
  EXPECT_EQ(files().size(), 4U);
  EXPECT_TRUE(rows_of(again, 1).equal(rows_of(with, 1)));
  EXPECT_EQ(again.cache.median_rms(0), with.cache.median_rms(0));
  EXPECT_TRUE(World(settings(3)).was_filled);

  const World other(settings(4));
  free.key = 4;
  const World opens(free);
  EXPECT_TRUE(opens.was_filled);
  EXPECT_EQ(opens.cache.median_rms(1), other.cache.median_rms(1));
  EXPECT_THROW(opens.cache.reference(1), BugError);
  EXPECT_EQ(files().size(), 6U);
}

TEST_F(CacheFiles, DamagedOnesAreMadeAgain) {
  { const World first(settings(3)); }
  for (const auto& path : files()) {
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 8);
  }
  const World second(settings(3));
  EXPECT_FALSE(second.was_filled);
  EXPECT_TRUE(World(settings(3)).was_filled);
  // The right size, but never declared whole.
  for (const auto& path : files()) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-8, std::ios::end);
    file.write("\0\0\0\0\0\0\0\0", 8);
  }
  EXPECT_FALSE(World(settings(3)).was_filled);
}

TEST(ActivationCache, BFloat16RowsAreRoundedAndReferencesFollow) {
  CacheSettings settings = for_layers({0, 1});
  const World exact(settings);
  settings.type = at::kBFloat16;
  const World rounded(settings);
  EXPECT_TRUE(rows_of(rounded, 1).equal(rows_of(exact, 1).to(at::kBFloat16).to(at::kFloat)));
  check_zero_vector(rounded.decoder, rounded.cache, 0, rounded.ranks);
  check_zero_vector(rounded.decoder, rounded.cache, 1, rounded.ranks);
}

std::vector<TrainingSettings> three_members() {
  return {training_settings(3, 11, 0.05, 0.1, SignRule::kBatch),
          training_settings(3, 12, 0.05, 0.3, SignRule::kPair),
          training_settings(3, 11, 0.02, 0.1, SignRule::kBoth)};
}

std::vector<TrainingRecord> train_together(const World& world,
                                           const std::vector<TrainingSettings>& settings,
                                           std::int64_t last_step = -1,
                                           std::vector<TrainingRecord> records = {}) {
  if (records.empty()) {
    for (const TrainingSettings& member : settings) {
      records.push_back(starting_record(world.config.hidden, member.plan.seed));
    }
  }
  std::vector<QuietObserver> observers(settings.size(), QuietObserver(last_step));
  std::vector<TrainingMember> members;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    members.push_back({settings[i], records[i], observers[i]});
  }
  train(world.decoder, world.cache, &world.cache, 1, members, world.ranks);
  return records;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]) * (a[i] - b[i]);
  }
  return std::sqrt(squares);
}

TEST(Training, VectorsInOnePassEqualEachAlone) {
  const World world(for_layers({1}), at::kDouble);
  const auto settings = three_members();
  const auto together = train_together(world, settings);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const TrainingRecord alone = train_together(world, {settings[i]}).front();
    ASSERT_EQ(together[i].steps.size(), 9U);
    ASSERT_EQ(alone.steps.size(), 9U);
    EXPECT_GT(vector_norm(alone.checkpoint.vector), 0.05);
    // float64 passes; the vector is float32.
    EXPECT_LT(distance(together[i].checkpoint.vector, alone.checkpoint.vector),
              1e-5 * vector_norm(alone.checkpoint.vector))
        << i;
    for (std::size_t s = 0; s < 9; ++s) {
      EXPECT_NEAR(together[i].steps[s].loss, alone.steps[s].loss, 1e-7);
      EXPECT_EQ(together[i].steps[s].sign, alone.steps[s].sign);
      EXPECT_EQ(together[i].steps[s].tokens, alone.steps[s].tokens);
    }
    ASSERT_EQ(together[i].evals.size(), alone.evals.size());
    EXPECT_NEAR(together[i].evals.back().margin, alone.evals.back().margin, 1e-5);
  }
  EXPECT_GT(distance(together[0].checkpoint.vector, together[1].checkpoint.vector), 0.01);
}

// One member of each objective, in both of its reductions.
std::vector<TrainingSettings> members_of_all_objectives(SignRule sign, std::int64_t epochs = 1) {
  std::vector<TrainingSettings> members;
  for (const std::string& name : objective_names()) {
    for (const Reduction reduction : {Reduction::kSum, Reduction::kMean}) {
      members.push_back(training_settings(epochs, 11, 0.05, 0.3, sign));
      members.back().objective.kind = parse_objective(name);
      members.back().objective.reduction = reduction;
      members.back().objective.simpo_gamma = 0.4;
    }
  }
  return members;
}

// The loss before a step at `vector`, and its gradient, whose first moment after one step is a
// tenth of it.
StepRow first_step(const World& world, TrainingSettings settings, const std::vector<float>& vector,
                   std::vector<double>* gradient = nullptr) {
  settings.plan.batch_size = 11;
  settings.plan.micro_batch = 4;
  settings.plan.max_steps = 1;
  settings.plan.shuffle = false;
  settings.max_grad_norm = 0;
  settings.eval_every = 0;
  TrainingRecord record = starting_record(world.config.hidden, settings.plan.seed);
  record.checkpoint.vector = vector;
  QuietObserver observer;
  train(world.decoder, world.cache, nullptr, 1, {{settings, record, observer}}, world.ranks);
  EXPECT_EQ(observer.failure(), "");
  if (gradient != nullptr) {
    for (const float moment : record.checkpoint.exp_avg) {
      gradient->push_back(static_cast<double>(moment) / (1 - settings.optimizer.beta1));
    }
  }
  return record.steps.front();
}

// Compares the gradient of a training's first step with central differences, in float64, through
// the whole model; returns the step's loss.
double expect_central_differences(const World& world, const TrainingSettings& settings,
                                  const std::string& label) {
  constexpr float kStep = 1.0F / 1024;  // exact, as are the vector's elements
  std::vector<float> vector;
  for (int i = 0; i < 20; ++i) {
    vector.push_back(static_cast<float>(i * 7 % 11 - 5) / 16);
  }
  std::vector<double> gradient;
  const double loss = first_step(world, settings, vector, &gradient).loss;
  const double length = vector_norm(gradient);
  EXPECT_GT(length, 1e-3) << label;
  for (const std::size_t i : {0, 7}) {
    const auto loss_at = [&](float shift) {
      std::vector<float> shifted = vector;
      shifted[i] += shift;
      return first_step(world, settings, shifted).loss;
    };
    const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    // Third derivatives times the square of the step; the moment is float32.
    EXPECT_NEAR(gradient[i], slope, 1e-5 * length) << label;
  }
  return loss;
}

TEST(Training, GradientsOfAllObjectivesEqualCentralDifferences) {
  const World world(for_layers({1}), at::kDouble);
  for (const TrainingSettings& settings : members_of_all_objectives(SignRule::kPair)) {
    expect_central_differences(world, settings, to_string(settings.objective.kind));
  }
}

TEST(Training, ObjectivesInOnePassEqualEachAlone) {
  const World world(for_layers({1}), at::kDouble);
  const auto settings = members_of_all_objectives(SignRule::kBatch);
  const auto together = train_together(world, settings);
  std::set<std::vector<float>> different;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const TrainingRecord alone = train_together(world, {settings[i]}).front();
    EXPECT_GT(vector_norm(alone.checkpoint.vector), 0.05);
    EXPECT_LT(distance(together[i].checkpoint.vector, alone.checkpoint.vector),
              1e-5 * vector_norm(alone.checkpoint.vector))
        << i;
    ASSERT_EQ(together[i].evals.size(), alone.evals.size());
    EXPECT_NEAR(together[i].evals.back().loss, alone.evals.back().loss, 1e-4);
    EXPECT_NEAR(together[i].evals.back().margin, alone.evals.back().margin, 1e-4);
    different.insert(alone.checkpoint.vector);
  }
  EXPECT_EQ(different.size(), settings.size() - 2) << "bipo and dpo differ in their signs only";
}

TEST(Training, APackOfObjectivesContinuesWhereItStopped) {
  const World world(for_layers({1}));
  const auto settings = members_of_all_objectives(SignRule::kBatch, /*epochs=*/2);
  const auto whole = train_together(world, settings);
  auto parts = train_together(world, settings, /*last_step=*/5);
  parts = train_together(world, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    EXPECT_EQ(parts[i].checkpoint.vector, whole[i].checkpoint.vector) << i;
  }
}

std::vector<TrainingSettings> members_at_all_positions(std::int64_t epochs) {
  std::vector<TrainingSettings> members;
  for (const char* text : {"all", "answer", "prompt", "first:2,last:1", "last:2"}) {
    members.push_back(training_settings(epochs, 11, 0.05, 0.3, SignRule::kPair));
    members.back().positions = parse_positions(text);
  }
  members.push_back(members.front());  // every prompt begins with token 1
  members.back().positions.left_out_bos = 1;
  return members;
}

TEST(Training, GradientsAtAllPositionsEqualCentralDifferences) {
  const World world(for_layers({1}), at::kDouble);
  std::set<double> losses;
  for (const TrainingSettings& settings : members_at_all_positions(1)) {
    losses.insert(expect_central_differences(world, settings, to_string(settings.positions)));
  }
  EXPECT_EQ(losses.size(), 6U);
}

TEST(Training, MembersAtDifferentPositionsEqualEachAloneAndContinue) {
  const World world(for_layers({1}), at::kDouble);
  const auto settings = members_at_all_positions(/*epochs=*/2);
  const auto together = train_together(world, settings);
  auto parts = train_together(world, settings, /*last_step=*/4);
  parts = train_together(world, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const TrainingRecord alone = train_together(world, {settings[i]}).front();
    EXPECT_LT(distance(together[i].checkpoint.vector, alone.checkpoint.vector),
              1e-5 * vector_norm(alone.checkpoint.vector))
        << i;
    EXPECT_NEAR(together[i].evals.back().margin, alone.evals.back().margin, 1e-4) << i;
    EXPECT_EQ(parts[i].checkpoint.vector, together[i].checkpoint.vector) << i;
  }
}

TEST(Training, ReferenceFreeObjectivesNeedNoReference) {
  const World with(for_layers({1}));
  CacheSettings settings = for_layers({1});
  settings.reference = false;
  const World without(settings);
  for (const ObjectiveKind kind :
       {ObjectiveKind::kSimpo, ObjectiveKind::kSft, ObjectiveKind::kSuppress}) {
    TrainingSettings member = training_settings(2, 11, 0.05, 0.3, SignRule::kBatch);
    member.objective = {kind, 0.3, 0, 0.5, Reduction::kMean};
    const auto trained = [&](const World& world) {
      TrainingRecord record = starting_record(world.config.hidden, 11);
      QuietObserver observer;
      train(world.decoder, world.cache, &with.cache, 1, {{member, record, observer}}, world.ranks);
      return record;
    };
    const TrainingRecord free = trained(without);
    EXPECT_EQ(free.checkpoint.vector, trained(with).checkpoint.vector);
    EXPECT_GT(vector_norm(free.checkpoint.vector), 0.05);
    EXPECT_FALSE(free.evals.empty());
  }
}

// The held-out rows by their definition, from the single pairs.
TEST(Training, EvaluationsAreOfTheObjective) {
  const World world(for_layers({1}), at::kDouble);
  for (const TrainingSettings& settings : members_of_all_objectives(SignRule::kPlus)) {
    const TrainingRecord record = train_together(world, {settings}).front();
    const Objective& objective = settings.objective;
    const EvalRow& row = record.evals.back();
    double margin = 0;
    double accuracy = 0;
    for (const EvalSampleRow& sample : record.eval_samples) {
      if (sample.multiplier != row.multiplier) {
        continue;
      }
      const auto p = static_cast<std::size_t>(sample.pair);
      const bool mean = objective.reduction == Reduction::kMean;
      const double chosen =
          sample.chosen_logp / (mean ? static_cast<double>(world.pairs[p].chosen.size()) : 1);
      const double rejected =
          sample.rejected_logp / (mean ? static_cast<double>(world.pairs[p].rejected.size()) : 1);
      const AnswerLogProbs reference = world.cache.reference(1)[p];
      const double without =
          uses_reference(objective.kind) && objective.kind != ObjectiveKind::kReps
              ? reference.chosen / (mean ? static_cast<double>(world.pairs[p].chosen.size()) : 1) -
                    reference.rejected /
                        (mean ? static_cast<double>(world.pairs[p].rejected.size()) : 1)
              : 0;
      margin += 0.3 * (chosen - rejected - without) / 11;
      accuracy += (chosen > rejected ? 1.0 : 0.0) / 11;
    }
    EXPECT_NEAR(row.margin, margin, 1e-12);
    EXPECT_NEAR(row.accuracy, accuracy, 1e-12);
  }
}

TEST(Training, TheNormStaysAsItsRuleSays) {
  const World world(for_layers({1}));
  std::vector<TrainingSettings> settings(3, training_settings(3, 11, 0.05, 0.3, SignRule::kBatch));
  settings[1].norm = {NormRule::kMax, 0.2};
  settings[2].norm = {NormRule::kFixed, 0.3};
  const auto whole = train_together(world, settings);
  EXPECT_GT(whole[0].steps.back().vector_norm, 0.4) << "the rules change something";
  bool was_shorter = false;
  for (const StepRow& row : whole[1].steps) {
    EXPECT_LE(row.vector_norm, 0.2 * (1 + 1e-6));
    was_shorter = was_shorter || (row.step > 0 && row.vector_norm < 0.199);
  }
  EXPECT_TRUE(was_shorter);
  EXPECT_NEAR(whole[1].steps.back().vector_norm, 0.2, 1e-6);
  EXPECT_EQ(whole[2].steps.front().vector_norm, 0) << "the warm-up's first rate is 0";
  for (std::size_t s = 1; s < whole[2].steps.size(); ++s) {
    EXPECT_NEAR(whole[2].steps[s].vector_norm, 0.3, 1e-6);
  }
  auto parts = train_together(world, settings, /*last_step=*/5);
  parts = train_together(world, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    EXPECT_EQ(parts[i].checkpoint.vector, whole[i].checkpoint.vector) << i;
  }
}

// At v under the factor f the model is that at f v under 1, and slopes by v are f times as large.
TEST(Training, AFactorMultipliesTheVector) {
  const World world(for_layers({1}), at::kDouble);
  std::vector<float> vector(20);
  std::vector<float> tripled(20);
  for (int i = 0; i < 20; ++i) {
    vector[static_cast<std::size_t>(i)] = static_cast<float>(i * 7 % 11 - 5) / 16;
    tripled[static_cast<std::size_t>(i)] = 3 * vector[static_cast<std::size_t>(i)];
  }
  for (const SignRule sign : {SignRule::kPair, SignRule::kBoth}) {
    TrainingSettings settings = training_settings(1, 11, 0.05, 0.3, sign);
    std::vector<double> expected;
    const StepRow at_tripled = first_step(world, settings, tripled, &expected);
    settings.plan.factors = {3};
    std::vector<double> gradient;
    EXPECT_NEAR(first_step(world, settings, vector, &gradient).loss, at_tripled.loss, 1e-12);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      EXPECT_NEAR(gradient[i], 3 * expected[i], 1e-6 * vector_norm(expected));
    }
  }
}

// By the factors that the plan draws, pair by pair.
// One step from v and f is one from w = f v, whose gradient g by w gives f g and v.g.
TEST(Training, ALearnedFactorIsDifferentiatedBesideTheVector) {
  const World world(for_layers({1}), at::kDouble);
  std::vector<float> vector;
  std::vector<float> whole;
  for (int i = 0; i < 20; ++i) {
    vector.push_back(static_cast<float>(i * 7 % 11 - 5) / 16);
    whole.push_back(1.5F * vector.back());
  }
  for (const ObjectiveKind kind :
       {ObjectiveKind::kBipo, ObjectiveKind::kReps, ObjectiveKind::kSuppress}) {
    TrainingSettings settings = training_settings(1, 11, 0.05, 0.3, SignRule::kBoth);
    settings.objective.kind = kind;
    std::vector<double> by_whole;
    const StepRow plain = first_step(world, settings, whole, &by_whole);
    settings.plan.batch_size = 11;
    settings.plan.micro_batch = 4;
    settings.plan.max_steps = 1;
    settings.plan.shuffle = false;
    settings.max_grad_norm = 0;
    settings.warmup_steps = 0;
    settings.eval_every = 0;
    settings.factor = FactorTraining{0.25, 1.5};
    TrainingRecord record = starting_record(world.config.hidden, 11);
    record.checkpoint.vector = vector;
    QuietObserver observer;
    train(world.decoder, world.cache, nullptr, 1, {{settings, record, observer}}, world.ranks);
    EXPECT_NEAR(record.steps.front().loss, plain.loss, 1e-12);
    const Checkpoint& state = record.checkpoint;
    double by_factor = 0;
    for (std::size_t i = 0; i < vector.size(); ++i) {
      // The moments are float32.
      EXPECT_NEAR(state.exp_avg[i], 0.1 * 1.5 * by_whole[i], 1e-6 * (1 + std::abs(by_whole[i])));
      by_factor += by_whole[i] * vector[i];
    }
    ASSERT_TRUE(state.factor.has_value());
    EXPECT_NEAR(state.factor->exp_avg, 0.1 * by_factor, 1e-6 * (1 + std::abs(by_factor)));
    // AdamW's first step has the length of the rate.
    EXPECT_NEAR(state.factor->value, 1.5 - (by_factor > 0 ? 0.25 : -0.25), 1e-5);
    EXPECT_EQ(record.vectors.back().value, whole_vector(state));
    EXPECT_EQ(record.vectors.back().factor, state.factor->value);
    EXPECT_DOUBLE_EQ(record.steps.front().vector_norm, vector_norm(whole_vector(state)));
  }
}

// Beside one that has none.
TEST(Training, APackWithALearnedFactorContinuesWhereItStopped) {
  const World world(for_layers({1}));
  std::vector<TrainingSettings> settings(2, training_settings(2, 11, 0.05, 0.3, SignRule::kBoth));
  settings[0].objective.kind = ObjectiveKind::kReps;
  settings[0].factor = FactorTraining{0.1, 2};
  const auto whole = train_together(world, settings);
  auto parts = train_together(world, settings, /*last_step=*/4);
  EXPECT_NE(parts[0].checkpoint.factor->value, 2);
  parts = train_together(world, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    EXPECT_EQ(parts[i].checkpoint.vector, whole[i].checkpoint.vector) << i;
  }
  EXPECT_EQ(parts[0].checkpoint.factor->value, whole[0].checkpoint.factor->value);
  EXPECT_EQ(parts[0].checkpoint.factor->exp_avg_sq, whole[0].checkpoint.factor->exp_avg_sq);
  EXPECT_FALSE(parts[1].checkpoint.factor.has_value());
}

TEST(Training, EveryPairHasTheFactorThatItDraws) {
  const World world(for_layers({1}), at::kDouble);
  const std::vector<float> vector(20, 0.25F);
  TrainingSettings settings = training_settings(1, 11, 0.05, 0.3, SignRule::kPlus);
  settings.plan.factors = {0.5, 1, 2};
  PlanSettings plan = settings.plan;
  plan.batch_size = 11;
  plan.micro_batch = 4;
  plan.shuffle = false;
  const StepPlan step = BatchPlan(plan).step(0);
  double loss = 0;
  std::size_t in_batch = 0;
  std::set<double> drawn;
  for (const auto& micro_batch : step.micro_batches) {
    for (const std::int64_t pair : micro_batch) {
      const double factor = step.factors[in_batch++];
      drawn.insert(factor);
      const std::vector<AnswerLogProbs> scores = world.cache.score(
          {world.decoder, world.ranks, 1, {}}, 1, at::full({20}, 0.25, at::kDouble), factor);
      const auto p = static_cast<std::size_t>(pair);
      loss +=
          pair_objective(settings.objective, scores[p], world.cache.reference(1)[p], {}, 1).loss;
    }
  }
  EXPECT_EQ(drawn.size(), 3U);
  EXPECT_NEAR(first_step(world, settings, vector).loss, loss / 11, 1e-12);
}

TEST(Training, TheRateFollowsItsSchedule) {
  const World world(for_layers({1}));
  TrainingSettings settings = training_settings(3, 11, 0.05, 0.3, SignRule::kBatch);
  settings.schedule = Schedule::kLinear;  // 9 steps, 2 of them to warm up
  const TrainingRecord record = train_together(world, {settings}).front();
  for (const StepRow& row : record.steps) {
    EXPECT_DOUBLE_EQ(row.lr, 0.05 * (row.step < 2 ? static_cast<double>(row.step) / 2
                                                  : 1 - static_cast<double>(row.step - 2) / 7));
  }
}

// With warm-up the first update is zero, and the second leaves float32.
TEST(Training, AMemberThatOverflowsLeavesTheOthersAlone) {
  const World world(for_layers({1}));
  auto settings = three_members();
  for (TrainingSettings& member : settings) {
    member.warmup_steps = 2;
  }
  const TrainingRecord alone = train_together(world, {settings[2]}).front();
  settings[0].lr = 1e39;
  settings[1].lr = 1e39;
  std::vector<TrainingRecord> records;
  std::vector<QuietObserver> observers(settings.size());
  std::vector<TrainingMember> members;
  for (const TrainingSettings& member : settings) {
    records.push_back(starting_record(world.config.hidden, member.plan.seed));
  }
  for (std::size_t i = 0; i < settings.size(); ++i) {
    members.push_back({settings[i], records[i], observers[i]});
  }
  EXPECT_EQ(train(world.decoder, world.cache, &world.cache, 1, members, world.ranks),
            RunStatus::kComplete);
  for (const std::size_t failed : {0, 1}) {
    EXPECT_EQ(observers[failed].failure().rfind("step 1: the vector is not finite", 0), 0U)
        << observers[failed].failure();
    EXPECT_EQ(records[failed].steps.size(), 1U);
    EXPECT_EQ(records[failed].checkpoint.step, 1);
    EXPECT_TRUE(std::isfinite(vector_norm(records[failed].checkpoint.vector)));
    EXPECT_EQ(observers[failed].last_status(), RunStatus::kDiverged);
  }
  EXPECT_EQ(observers[2].failure(), "");
  EXPECT_EQ(observers[2].last_status(), RunStatus::kComplete);
  ASSERT_EQ(records[2].steps.size(), alone.steps.size());
  EXPECT_LT(distance(records[2].checkpoint.vector, alone.checkpoint.vector),
            1e-5 * vector_norm(alone.checkpoint.vector));

  records[0] = starting_record(world.config.hidden, 1);
  EXPECT_EQ(train(world.decoder, world.cache, nullptr, 1, {{settings[0], records[0], observers[0]}},
                  world.ranks),
            RunStatus::kComplete)
      << "nothing is left to do where all have failed";
}

// Trains one member; returns why it diverged, "" if it did not.
std::string divergence_of(const World& world, const TrainingSettings& settings,
                          TrainingRecord& record) {
  record = starting_record(world.config.hidden, settings.plan.seed);
  QuietObserver observer;
  train(world.decoder, world.cache, nullptr, 1, {{settings, record, observer}}, world.ranks);
  EXPECT_EQ(observer.last_status(),
            observer.failure().empty() ? RunStatus::kComplete : RunStatus::kDiverged);
  return observer.failure();
}

TEST(Training, AVectorFarBeyondTheResidualStreamHasDiverged) {
  const World world(for_layers({1}));
  TrainingSettings settings = three_members().front();
  TrainingRecord record;
  const double residual_norm = world.cache.median_rms(1) * std::sqrt(20.0);
  settings.residual_norm = residual_norm;
  EXPECT_EQ(divergence_of(world, settings, record), "");

  settings.lr = 30 * residual_norm;  // a step has the length lr sqrt(D): beyond 100 at once
  const std::string reason = divergence_of(world, settings, record);
  EXPECT_NE(reason.find("|v|"), std::string::npos) << reason;
  EXPECT_NE(reason.find("--lr"), std::string::npos) << reason;
  ASSERT_FALSE(record.steps.empty());
  EXPECT_GT(record.steps.back().vector_norm, 100 * residual_norm);
  EXPECT_EQ(reason.rfind("step " + std::to_string(record.steps.back().step) + ": ", 0), 0U);
  EXPECT_EQ(vector_norm(record.checkpoint.vector), record.steps.back().vector_norm);
  EXPECT_LT(record.steps.size(), 9U);

  settings.residual_norm = 0;  // not known
  EXPECT_EQ(divergence_of(world, settings, record), "");
}

// The squares of the residual stream overflow, so that the final norm makes 0 of it.
TEST(Training, AnEpochOfZeroGradientsHasDiverged) {
  const World world(for_layers({1}));
  TrainingSettings settings = three_members().front();
  settings.warmup_steps = 0;
  settings.lr = 1e30;
  TrainingRecord record;
  const std::string reason = divergence_of(world, settings, record);
  EXPECT_NE(reason.find("gradient was exactly 0"), std::string::npos) << reason;
  ASSERT_EQ(record.steps.size(), 4U) << "one step with a gradient, then an epoch of three";
  EXPECT_GT(record.steps.front().grad_norm, 0);
  EXPECT_EQ(record.steps.back().grad_norm, 0);
}

// Nothing sees the output of the last block but the head.
TEST(Training, PositionsThatNoAnswerSeesAreSaidToBeThat) {
  const std::int64_t last = tiny_config().blocks - 1;
  const World world(for_layers({last}));
  TrainingSettings settings = three_members().front();
  settings.positions = parse_positions("first:1");
  TrainingRecord record = starting_record(world.config.hidden, settings.plan.seed);
  QuietObserver observer;
  train(world.decoder, world.cache, nullptr, last, {{settings, record, observer}}, world.ranks);
  const std::string& reason = observer.failure();
  EXPECT_NE(reason.find("--positions first:1"), std::string::npos) << reason;
  EXPECT_EQ(reason.find("lower --lr"), std::string::npos) << reason;
  EXPECT_EQ(record.steps.size(), 3U);
}

TEST(Training, APackContinuesWhereItStopped) {
  const World world(for_layers({1}));
  const auto settings = three_members();
  const auto whole = train_together(world, settings);
  auto parts = train_together(world, settings, /*last_step=*/5);
  EXPECT_EQ(parts.front().checkpoint.step, 5);
  parts = train_together(world, settings, -1, parts);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    EXPECT_EQ(parts[i].checkpoint.vector, whole[i].checkpoint.vector) << i;
    EXPECT_EQ(parts[i].steps.size(), whole[i].steps.size());
  }
}

// Keeps what it is told to save, and looks at it as another thread's save would.
class KeepingObserver final : public TrainingObserver {
 public:
  // Returns when another thread has saved since the step, if there is one.
  void on_step(const StepRow&) override {
    for (const int before = rounds; is_watched && rounds < before + 2;) {
      std::this_thread::yield();
    }
  }
  void on_evaluation(const std::vector<EvalRow>&) override {}
  void on_failure(const std::string&) override {}
  void on_early_end() override { ++early_ends; }
  void save(const TrainingRecord& record, RunStatus status) override {
    saved.push_back(record);
    statuses.push_back(status);
  }
  bool stop_requested() const override { return false; }

  std::atomic<int> rounds = 0;  // saves of the other thread
  std::atomic<bool> is_watched = false;
  int early_ends = 0;
  std::vector<TrainingRecord> saved;
  std::vector<RunStatus> statuses;
};

void expect_same(const TrainingRecord& record, const TrainingRecord& expected) {
  EXPECT_EQ(record.checkpoint.vector, expected.checkpoint.vector);
  ASSERT_EQ(record.evals.size(), expected.evals.size());
  for (std::size_t i = 0; i < record.evals.size(); ++i) {
    EXPECT_EQ(record.evals[i].step, expected.evals[i].step);
    EXPECT_EQ(record.evals[i].epoch, expected.evals[i].epoch);
    EXPECT_EQ(record.evals[i].margin, expected.evals[i].margin);
  }
  ASSERT_EQ(record.vectors.size(), expected.vectors.size());
  for (std::size_t i = 0; i < record.vectors.size(); ++i) {
    EXPECT_EQ(record.vectors[i].step, expected.vectors[i].step);
    EXPECT_EQ(record.vectors[i].value, expected.vectors[i].value);
  }
}

// Every state that another thread can catch is one step's whole, of all members, and goes on to the
// same end.
TEST(Training, AnotherThreadSavesCompletedSteps) {
  const World world(for_layers({1}));
  const auto settings = three_members();
  const auto whole = train_together(world, settings);
  std::vector<TrainingRecord> records;
  std::vector<KeepingObserver> observers(settings.size());
  std::vector<TrainingMember> members;
  for (const TrainingSettings& member : settings) {
    records.push_back(starting_record(world.config.hidden, member.plan.seed));
  }
  for (std::size_t i = 0; i < settings.size(); ++i) {
    members.push_back({settings[i], records[i], observers[i]});
  }
  LastStep last_step;
  observers.front().is_watched = true;
  std::jthread saver([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      last_step.save();
      ++observers.front().rounds;
    }
  });
  EXPECT_EQ(train(world.decoder, world.cache, &world.cache, 1, members, world.ranks, last_step),
            RunStatus::kComplete);
  saver.request_stop();
  saver.join();
  last_step.save();  // there is no training any more
  const std::size_t saves = observers.front().saved.size();
  EXPECT_EQ(observers.front().statuses.back(), RunStatus::kComplete);
  EXPECT_GT(std::count(observers.front().statuses.begin(), observers.front().statuses.end(),
                       RunStatus::kInterrupted),
            5);
  for (std::size_t i = 0; i < settings.size(); ++i) {
    expect_same(records[i], whole[i]);
    ASSERT_EQ(observers[i].saved.size(), saves);
    for (std::size_t s = 0; s < saves; ++s) {
      const TrainingRecord& saved = observers[i].saved[s];
      const std::int64_t step = observers.front().saved[s].checkpoint.step;
      EXPECT_EQ(saved.checkpoint.step, step);
      EXPECT_EQ(saved.steps.size(), static_cast<std::size_t>(step));
      EXPECT_EQ(saved.vectors.empty() ? 0 : saved.vectors.back().step, step);
    }
  }
  for (std::size_t s = 0; s + 1 < saves; ++s) {
    std::vector<TrainingRecord> caught;
    for (const KeepingObserver& observer : observers) {
      caught.push_back(observer.saved[s]);
    }
    const auto continued = train_together(world, settings, -1, caught);
    for (std::size_t i = 0; i < settings.size(); ++i) {
      expect_same(continued[i], whole[i]);
    }
  }
}

// A run after its first epoch of three steps, whose margin there no later one reaches.
TrainingRecord begun_with_the_best_epoch(const World& world, const TrainingSettings& settings) {
  TrainingRecord record = train_together(world, {settings}, /*last_step=*/3).front();
  for (EvalRow& row : record.evals) {
    row.margin = row.multiplier == 1 ? 1e6 : row.margin;
  }
  return record;
}

// Continues `record` to its end, which must be complete.
TrainingRecord continued(const World& world, const TrainingSettings& settings,
                         TrainingRecord record, KeepingObserver& observer) {
  EXPECT_EQ(train(world.decoder, world.cache, &world.cache, 1, {{settings, record, observer}},
                  world.ranks),
            RunStatus::kComplete);
  EXPECT_EQ(observer.statuses.back(), RunStatus::kComplete);
  return record;
}

TEST(Training, ASelectedVectorIsSavedOnceMoreAtTheEnd) {
  const World world(for_layers({1}));
  TrainingSettings settings = three_members().front();
  const TrainingRecord begun = begun_with_the_best_epoch(world, settings);
  KeepingObserver plain;
  const TrainingRecord whole = continued(world, settings, begun, plain);
  ASSERT_EQ(plain.saved.back().vectors.size(), 3U);

  settings.ends_with_best = true;
  KeepingObserver selecting;
  expect_same(continued(world, settings, begun, selecting), whole);
  const TrainingRecord& saved = selecting.saved.back();
  ASSERT_EQ(saved.vectors.size(), 4U);
  EXPECT_EQ(saved.vectors.back().step, 3);
  EXPECT_EQ(saved.vectors.back().epoch, 0);
  EXPECT_EQ(saved.vectors.back().value, plain.saved.back().vectors.front().value);
  EXPECT_EQ(saved.checkpoint.vector, plain.saved.back().checkpoint.vector);
  for (std::size_t i = 0; i + 1 < selecting.saved.size(); ++i) {
    const TrainingRecord& earlier = selecting.saved[i];
    EXPECT_EQ(earlier.vectors.back().step, earlier.checkpoint.step)
        << "a run that is not complete ends with its checkpoint's vector";
  }
}

// The run with patience is the beginning of the run without, to the bit, wherever it is resumed.
TEST(Training, PatienceEndsARunAfterEvaluationsWithoutABetterMargin) {
  const World world(for_layers({1}));
  TrainingSettings settings = three_members().front();
  settings.plan.epochs = 5;
  settings.save_every = 0;
  const TrainingRecord begun = begun_with_the_best_epoch(world, settings);
  KeepingObserver observer;
  const TrainingRecord whole = continued(world, settings, begun, observer);
  ASSERT_EQ(whole.checkpoint.step, 15);

  settings.patience = 2;
  KeepingObserver impatient;
  const TrainingRecord ended = continued(world, settings, begun, impatient);
  ASSERT_EQ(ended.checkpoint.step, 9) << "two evaluations after the first epoch's";
  ASSERT_EQ(ended.vectors.size(), 3U);
  for (std::size_t i = 0; i < ended.vectors.size(); ++i) {
    EXPECT_EQ(ended.vectors[i].value, whole.vectors[i].value) << i;
  }
  for (std::size_t i = 0; i < ended.steps.size(); ++i) {
    EXPECT_EQ(ended.steps[i].lr, whole.steps[i].lr) << "the schedule is that of the whole plan";
  }
  ASSERT_GT(impatient.saved.size(), 5U);
  for (const TrainingRecord& caught : impatient.saved) {
    KeepingObserver resumed;
    expect_same(continued(world, settings, caught, resumed), ended);
  }
}

// One member's margin was the best after its first epoch, the others' were the worst: the first
// ends by itself, and the others go on to the end of their plan, wherever the pack is resumed.
TEST(Training, AMemberOutOfPatienceEndsByItself) {
  const World world(for_layers({1}));
  auto settings = three_members();
  for (TrainingSettings& member : settings) {
    member.plan.epochs = 4;
    member.save_every = 0;
  }
  std::vector<TrainingRecord> begun = train_together(world, settings, /*last_step=*/3);
  for (std::size_t i = 0; i < begun.size(); ++i) {
    for (EvalRow& row : begun[i].evals) {
      row.margin = row.multiplier == 1 ? (i == 0 ? 1e6 : -1e6) : row.margin;
    }
  }
  const auto train_from = [&](std::vector<TrainingRecord>& records,
                              std::vector<KeepingObserver>& observers,
                              const std::vector<TrainingSettings>& of_members) {
    std::vector<TrainingMember> members;
    for (std::size_t i = 0; i < records.size(); ++i) {
      members.push_back({of_members[i], records[i], observers[i]});
    }
    EXPECT_EQ(train(world.decoder, world.cache, &world.cache, 1, members, world.ranks),
              RunStatus::kComplete);
  };
  std::vector<TrainingRecord> whole = begun;
  std::vector<KeepingObserver> patient(3);
  train_from(whole, patient, settings);

  for (TrainingSettings& member : settings) {
    member.patience = 2;
  }
  std::vector<TrainingRecord> ended = begun;
  std::vector<KeepingObserver> impatient(3);
  train_from(ended, impatient, settings);
  ASSERT_EQ(ended[0].checkpoint.step, 9) << "two evaluations after the first epoch's";
  ASSERT_EQ(ended[0].vectors.size(), 3U);
  for (std::size_t i = 0; i < ended[0].vectors.size(); ++i) {
    EXPECT_EQ(ended[0].vectors[i].value, whole[0].vectors[i].value) << i;
  }
  EXPECT_EQ(impatient[0].early_ends, 1);
  EXPECT_EQ(impatient[0].statuses.back(), RunStatus::kComplete);
  EXPECT_EQ(impatient[0].saved.back().checkpoint.step, 9);
  for (const std::size_t i : {1, 2}) {
    EXPECT_EQ(ended[i].checkpoint.step, 12);
    EXPECT_EQ(impatient[i].early_ends, 0);
    EXPECT_EQ(impatient[i].statuses.back(), RunStatus::kComplete);
    // Passes of two members instead of three round differently in float32.
    EXPECT_LT(distance(ended[i].checkpoint.vector, whole[i].checkpoint.vector),
              1e-5 * vector_norm(whole[i].checkpoint.vector));
  }

  ASSERT_GT(impatient[0].saved.size(), 5U);
  ASSERT_GT(impatient[1].saved.size(), impatient[0].saved.size());
  for (std::size_t s = 0; s < impatient[1].saved.size(); ++s) {
    const bool is_together = impatient[1].saved[s].checkpoint.step < 9;
    std::vector<TrainingRecord> caught;
    std::vector<TrainingSettings> of_caught;
    for (std::size_t i = is_together ? 0 : 1; i < 3; ++i) {
      caught.push_back(impatient[i].saved[s]);
      of_caught.push_back(settings[i]);
    }
    std::vector<KeepingObserver> resumed(caught.size());
    train_from(caught, resumed, of_caught);
    for (std::size_t i = 0; i < caught.size(); ++i) {
      expect_same(caught[i], ended[i + (is_together ? 0 : 1)]);
    }
  }
}

TEST(Training, AnEvaluationThatWasDueIsMadeUpFor) {
  const World world(for_layers({1}));
  const auto settings = three_members();
  const auto whole = train_together(world, settings);
  for (const std::int64_t step : {3, 9}) {
    auto records = train_together(world, settings, step);
    for (TrainingRecord& record : records) {
      ASSERT_EQ(record.checkpoint.step, step);
      std::erase_if(record.evals, [&](const EvalRow& row) { return row.step == step; });
    }
    records = train_together(world, settings, -1, records);
    for (std::size_t i = 0; i < settings.size(); ++i) {
      expect_same(records[i], whole[i]);
    }
  }
}

TEST(Training, AStopBeforeTheFirstStepIsHeard) {
  const World world(for_layers({1}));
  const auto settings = three_members();
  EXPECT_EQ(train_together(world, settings, /*last_step=*/0).front().checkpoint.step, 0);
}

// Counts saves, each of which takes as long as a step of this model many times.
class SlowDisk final : public TrainingObserver {
 public:
  void on_step(const StepRow&) override {}
  void on_evaluation(const std::vector<EvalRow>&) override {}
  void on_failure(const std::string&) override {}
  void save(const TrainingRecord&, RunStatus status) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    saved.push_back(status);
  }
  bool stop_requested() const override { return false; }

  std::vector<RunStatus> saved;
};

std::vector<RunStatus> saves_of(double save_every) {
  const World world(for_layers({1}));
  TrainingSettings settings = training_settings(3, 11, 0.05, 0.1, SignRule::kBatch);
  settings.plan.epochs = 10;
  settings.eval_every = 0;
  settings.save_every = save_every;
  TrainingRecord record = starting_record(world.config.hidden, settings.plan.seed);
  SlowDisk disk;
  train(world.decoder, world.cache, nullptr, 1, {{settings, record, disk}}, world.ranks);
  return disk.saved;
}

TEST(Training, SavesTakeAHundredthOfTheTimeUnlessEachStepIsToBeSaved) {
  EXPECT_EQ(saves_of(30), (std::vector<RunStatus>{RunStatus::kRunning, RunStatus::kComplete}))
      << "no epoch of these ends five seconds after the first save";
  EXPECT_EQ(saves_of(1e-9), (std::vector<RunStatus>{RunStatus::kRunning, RunStatus::kComplete}));
  EXPECT_EQ(saves_of(0).size(), 31U) << "before and after each of 30 steps";
}

TEST(Training, MembersOfDifferentPlansAreRefused) {
  const World world(for_layers({1}));
  auto settings = three_members();
  settings[1].plan.epochs = 4;
  EXPECT_THROW(train_together(world, settings), BugError);
}

}  // namespace
}  // namespace bipo
