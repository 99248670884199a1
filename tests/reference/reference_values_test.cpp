// Per-pair log-probabilities and single gradients on the real model, against plain PyTorch's
// (make_reference.py), from its token ids.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "collectives/self_communicator.hpp"
#include "collectives/thread_communicator.hpp"
#include "experiments/hdf5.hpp"
#include "trainer/model/graph.hpp"
#include "trainer/pair_scores.hpp"

namespace bipo {
namespace {

using hdf5::Scalar;

const std::string kCache = BIPO_TEST_CACHE;

// float32 against float32 in another order: plain PyTorch's own float32 lies this far from float64
// on these sums of 20 to 40 terms (largest of 80 log-probabilities: 4.8e-4 nats).
constexpr double kLogProbTolerance = 1e-3;
// Relative, of the gradient vector; the same comparison gives 2.4e-5.
constexpr double kGradientTolerance = 1e-4;

class Reference : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = hdf5::open_file(kCache + "/reference/reference.h5");
    layer_ = hdf5::read_integer_attribute(file_, "layer");
    const auto prompts = tokens("prompt");
    const auto chosen = tokens("chosen");
    const auto rejected = tokens("rejected");
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      pairs_.push_back({prompts[p], chosen[p], rejected[p], "pair " + std::to_string(p)});
    }
    const std::string directory = kCache + "/models/smollm2-135m-instruct";
    config_ = read_model_config(directory);
    weights_ = open_safetensors(directory, config_);
  }

  std::vector<double> doubles(const std::string& name) const {
    return hdf5::read_array<double>(file_, name, Scalar::kFloat64, 1).values;
  }

  at::Tensor floats(const std::string& name) const {
    return at::tensor(hdf5::read_array<float>(file_, name, Scalar::kFloat32, 1).values, at::kFloat);
  }

  std::vector<std::vector<TokenId>> tokens(const std::string& part) const {
    const auto ids =
        hdf5::read_array<std::int32_t>(file_, "tokens/" + part + "_ids", Scalar::kInt32, 1).values;
    const auto offsets =
        hdf5::read_array<std::int64_t>(file_, "tokens/" + part + "_offsets", Scalar::kInt64, 1)
            .values;
    std::vector<std::vector<TokenId>> result;
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
      result.emplace_back(ids.begin() + offsets[i], ids.begin() + offsets[i + 1]);
    }
    return result;
  }

  // Pairs in micro-batches of four, all tokens steered by `vector`.
  void expect_log_probs(const Decoder& decoder, const at::Tensor& vector, const std::string& group,
                        std::size_t count) const {
    const at::NoGradGuard no_grad;
    const auto chosen = doubles(group + "/chosen_logp");
    const auto rejected = doubles(group + "/rejected_logp");
    ASSERT_EQ(chosen.size(), count);
    for (std::size_t first = 0; first < count; first += 4) {
      const auto b = static_cast<std::int64_t>(first);
      const PackedPairs packed = pack_pairs(pairs_, {b, b + 1, b + 2, b + 3}, decoder);
      const PairScores scores = score_pairs(decoder, packed, run_prefix(decoder, packed, layer_),
                                            {layer_, at::ones({packed.tokens()}), vector});
      for (std::size_t p = 0; p < 4; ++p) {
        EXPECT_NEAR(scores.answers[p].chosen, chosen[first + p], kLogProbTolerance) << first + p;
        EXPECT_NEAR(scores.answers[p].rejected, rejected[first + p], kLogProbTolerance)
            << first + p;
      }
    }
  }

  // Loss and dL/dv of pairs 0..3 at the probe vector.
  void expect_gradient(const Decoder& decoder, double direction, const std::string& group) const {
    const PackedPairs packed = pack_pairs(pairs_, {0, 1, 2, 3}, decoder);
    const at::Tensor vector = floats("probe/vector").set_requires_grad(true);
    const at::Tensor signs = at::full({packed.tokens()}, direction, at::kFloat);
    const PairScores scores =
        score_pairs(decoder, packed, run_prefix(decoder, packed, layer_), {layer_, signs, vector});
    const auto chosen = doubles("zero/chosen_logp");
    const auto rejected = doubles("zero/rejected_logp");
    constexpr double kBeta = 0.1;
    std::vector<float> upstream;
    double loss = 0;
    std::vector<double> loss_by_delta;
    for (std::size_t p = 0; p < 4; ++p) {
      const PairObjective objective =
          pair_objective(scores.answers[p], {chosen[p], rejected[p]}, direction, kBeta);
      loss += objective.loss / 4;
      loss_by_delta.push_back(objective.loss_by_delta / 4);
    }
    for (const std::int64_t answer : packed.answer_of_row) {
      const double by_delta = loss_by_delta[static_cast<std::size_t>(answer / 2)];
      upstream.push_back(static_cast<float>(answer % 2 == 0 ? by_delta : -by_delta));
    }
    scores.row_log_probs.backward(at::tensor(upstream, at::kFloat));

    const auto expected_loss =
        hdf5::read_array<double>(file_, group + "/loss", Scalar::kFloat64, 0).values.at(0);
    EXPECT_NEAR(loss, expected_loss, 1e-5);
    const at::Tensor expected = floats(group + "/grad");
    const double error = (vector.grad() - expected).norm().item<double>();
    EXPECT_LT(error, kGradientTolerance * expected.norm().item<double>());
  }

  hdf5::Handle file_;
  std::int64_t layer_ = 0;
  std::vector<TokenPair> pairs_;
  ModelConfig config_;
  std::unique_ptr<WeightSource> weights_;
};

TEST_F(Reference, LogProbsAndGradientsOfOneRank) {
  SelfCommunicator self;
  const Decoder decoder(config_, *weights_, at::kFloat, at::kCPU, self);
  expect_log_probs(decoder, at::zeros({config_.hidden}), "zero", pairs_.size());
  expect_log_probs(decoder, floats("probe/vector"), "probe/plus", pairs_.size());
  expect_log_probs(decoder, -floats("probe/vector"), "probe/minus", 4);
  expect_gradient(decoder, 1, "probe/plus");
  expect_gradient(decoder, -1, "probe/minus");
}

TEST_F(Reference, GradientsOfUnevenShards) {
  run_as_threads(2, [&](Communicator& tp) {
    const Decoder decoder(config_, *weights_, at::kFloat, at::kCPU, tp);
    expect_gradient(decoder, 1, "probe/plus");
    expect_gradient(decoder, -1, "probe/minus");
  });
}

}  // namespace
}  // namespace bipo
