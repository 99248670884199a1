// Ranks, pairs and an observer for training the tiny model inside a test.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "collectives/session.hpp"
#include "tests/support/tiny_model.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/loop/training.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo::testing {

// One rank by itself.
inline Ranks lone_ranks() {
  return {Topology(1, 0, 1, std::nullopt), std::make_unique<SelfCommunicator>(),
          std::make_unique<SelfCommunicator>(), std::make_unique<SelfCommunicator>(),
          std::make_unique<SelfCommunicator>()};
}

// Pairs of many lengths that begin alike.
inline std::vector<TokenPair> varied_pairs(int count) {
  std::vector<TokenPair> pairs;
  for (int p = 0; p < count; ++p) {
    TokenPair pair{{1, 5, 9}, {}, {}, "varied:" + std::to_string(p + 1)};
    for (int i = 0; i < 1 + p * 5 % 7; ++i) {
      pair.prompt.push_back((p * 11 + i * 3) % 37);
    }
    for (int i = 0; i < 1 + p % 4; ++i) {
      pair.chosen.push_back((p * 7 + i * 5 + 1) % 37);
    }
    for (int i = 0; i < 1 + p * 3 % 5; ++i) {
      pair.rejected.push_back((p * 13 + i * 2 + 4) % 37);
    }
    pairs.push_back(pair);
  }
  return pairs;
}

// Training on eleven pairs, in steps of four and passes of two, whose last step has three.
inline TrainingSettings training_settings(std::int64_t epochs, std::uint64_t seed, double lr,
                                          double beta, SignRule sign) {
  TrainingSettings settings;
  settings.plan.pairs = 11;
  settings.plan.batch_size = 4;
  settings.plan.micro_batch = 2;
  settings.plan.epochs = epochs;
  settings.plan.seed = seed;
  settings.plan.sign = sign;
  settings.lr = lr;
  settings.objective.beta = beta;
  settings.warmup_steps = 2;
  return settings;
}

// For passes over the data.
inline void ignore_progress(const std::string&, std::int64_t, std::int64_t) {
}

// A model of random weights with a filled cache of eleven pairs.
template <class Weights = RandomWeights>
struct FilledWorld {
  FilledWorld(const ModelConfig& of, at::ScalarType type, at::Device device,
              const CacheSettings& settings, Ranks of_world = lone_ranks())
      : config(of),
        weights(config),
        ranks(std::move(of_world)),
        decoder(config, weights, type, device, *ranks.tp),
        pairs(varied_pairs(11)),
        cache(decoder, pairs, settings, ranks),
        was_filled(cache.is_filled()) {
    fill_caches(decoder, {&cache}, ranks, ignore_progress);
  }

  ModelConfig config;
  Weights weights;
  Ranks ranks;
  Decoder decoder;
  std::vector<TokenPair> pairs;
  ActivationCache cache;
  bool was_filled;  // by the files of an earlier one
};

// Listens, and stops the training after `last_step` steps where that is not negative.
class QuietObserver final : public TrainingObserver {
 public:
  explicit QuietObserver(std::int64_t last_step = -1) : last_step_(last_step) {}

  void on_step(const StepRow& row) override { steps_ = row.step + 1; }
  void on_evaluation(const std::vector<EvalRow>&) override {}
  void on_failure(const std::string& reason) override { failure_ = reason; }
  void save(const TrainingRecord&, RunStatus status) override { last_status_ = status; }
  bool stop_requested() const override { return steps_ == last_step_; }

  const std::string& failure() const { return failure_; }
  RunStatus last_status() const { return last_status_; }

 private:
  std::int64_t last_step_;
  std::int64_t steps_ = 0;
  std::string failure_;
  RunStatus last_status_ = RunStatus::kRunning;
};

}  // namespace bipo::testing
