// Per-pair log-probabilities and single gradients on the real model, against plain PyTorch's
// (make_reference.py), from its token ids.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

#include "collectives/self_communicator.hpp"
#include "tests/support/thread_communicator.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

const std::string kCache = BIPO_TEST_CACHE;

// float32 against float32 in another order: plain PyTorch's own float32 lies this far from float64
// on these sums of 20 to 40 terms (largest of 80 log-probabilities: 4.8e-4 nats).
constexpr double kLogProbTolerance = 1e-3;
// Relative, of the gradient vector; the same comparison gives 2.4e-5.
constexpr double kGradientTolerance = 1e-4;

// A file that h5py wrote; whatever is missing fails the test.
class ReferenceFile {
 public:
  explicit ReferenceFile(const std::string& path)
      : id_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
    if (id_ < 0) {
      throw std::runtime_error(path + " is missing: tests/run.sh makes it");
    }
  }
  ~ReferenceFile() { H5Fclose(id_); }
  ReferenceFile(const ReferenceFile&) = delete;
  ReferenceFile& operator=(const ReferenceFile&) = delete;

  template <typename T>
  std::vector<T> read(const std::string& name, hid_t type) const {
    const hid_t dataset = H5Dopen2(id_, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(dataset);
    std::vector<T> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
    const herr_t status = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Sclose(space);
    H5Dclose(dataset);
    if (status < 0) {
      throw std::runtime_error("cannot read " + name);
    }
    return values;
  }

  std::int64_t attribute(const char* name) const {
    std::int64_t value = 0;
    const hid_t attribute = H5Aopen(id_, name, H5P_DEFAULT);
    const herr_t status = H5Aread(attribute, H5T_NATIVE_INT64, &value);
    H5Aclose(attribute);
    if (status < 0) {
      throw std::runtime_error(std::string("cannot read attribute ") + name);
    }
    return value;
  }

 private:
  hid_t id_;
};

class Reference : public ::testing::Test {
 protected:
  void SetUp() override {
    layer_ = file_.attribute("layer");
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
    return file_.read<double>(name, H5T_NATIVE_DOUBLE);
  }

  at::Tensor floats(const std::string& name) const {
    return at::tensor(file_.read<float>(name, H5T_NATIVE_FLOAT), at::kFloat);
  }

  std::vector<std::vector<TokenId>> tokens(const std::string& part) const {
    const auto ids = file_.read<std::int32_t>("tokens/" + part + "_ids", H5T_NATIVE_INT32);
    const auto offsets = file_.read<std::int64_t>("tokens/" + part + "_offsets", H5T_NATIVE_INT64);
    std::vector<std::vector<TokenId>> result;
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
      result.emplace_back(ids.begin() + offsets[i], ids.begin() + offsets[i + 1]);
    }
    return result;
  }

  void load_all(Decoder& decoder) const {
    decoder.load_embedding();
    decoder.load_blocks({0, config_.blocks});
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
      const PackedPairs packed = pack_alike(pairs_, {b, b + 1, b + 2, b + 3}, decoder);
      const PairScores scores =
          score_pairs(decoder, packed, run_prefix(decoder, packed, layer_),
                      {layer_, at::ones({1, packed.tokens()}), vector.unsqueeze(0)});
      for (std::size_t p = 0; p < 4; ++p) {
        EXPECT_NEAR(scores.answers[p].chosen, chosen[first + p], kLogProbTolerance) << first + p;
        EXPECT_NEAR(scores.answers[p].rejected, rejected[first + p], kLogProbTolerance)
            << first + p;
      }
    }
  }

  // Loss and dL/dv of pairs 0..3 at the probe vector.
  void expect_gradient(const Decoder& decoder, double direction, const std::string& group) const {
    const PackedPairs packed = pack_alike(pairs_, {0, 1, 2, 3}, decoder);
    const at::Tensor vector = floats("probe/vector").unsqueeze(0).set_requires_grad(true);
    const at::Tensor signs = at::full({1, packed.tokens()}, direction, at::kFloat);
    const PairScores scores =
        score_pairs(decoder, packed, run_prefix(decoder, packed, layer_), {layer_, signs, vector});
    const auto chosen = doubles("zero/chosen_logp");
    const auto rejected = doubles("zero/rejected_logp");
    constexpr double kBeta = 0.1;
    std::vector<float> upstream;
    double loss = 0;
    std::vector<double> loss_by_answer;
    for (std::size_t p = 0; p < 4; ++p) {
      const PairObjective found = pair_objective({ObjectiveKind::kBipo, kBeta}, scores.answers[p],
                                                 {chosen[p], rejected[p]}, {}, direction);
      loss += found.loss / 4;
      loss_by_answer.insert(loss_by_answer.end(),
                            {found.slope.chosen / 4, found.slope.rejected / 4});
    }
    for (const std::int64_t answer : packed.answer_of_target) {
      upstream.push_back(static_cast<float>(loss_by_answer[static_cast<std::size_t>(answer)]));
    }
    scores.target_log_probs.backward(at::tensor(upstream, at::kFloat));

    const auto expected_loss = file_.read<double>(group + "/loss", H5T_NATIVE_DOUBLE).at(0);
    EXPECT_NEAR(loss, expected_loss, 1e-5);
    const at::Tensor expected = floats(group + "/grad");
    const double error = (vector.grad().squeeze(0) - expected).norm().item<double>();
    EXPECT_LT(error, kGradientTolerance * expected.norm().item<double>());
  }

  ReferenceFile file_{kCache + "/reference/reference.h5"};
  std::int64_t layer_ = 0;
  std::vector<TokenPair> pairs_;
  ModelConfig config_;
  std::unique_ptr<WeightSource> weights_;
};

TEST_F(Reference, LogProbsAndGradientsOfOneRank) {
  SelfCommunicator self;
  Decoder decoder(config_, *weights_, at::kFloat, at::kCPU, self);
  load_all(decoder);
  expect_log_probs(decoder, at::zeros({config_.hidden}), "zero", pairs_.size());
  expect_log_probs(decoder, floats("probe/vector"), "probe/plus", pairs_.size());
  expect_log_probs(decoder, -floats("probe/vector"), "probe/minus", 4);
  expect_gradient(decoder, 1, "probe/plus");
  expect_gradient(decoder, -1, "probe/minus");
}

TEST_F(Reference, GradientsOfUnevenShards) {
  run_as_threads(2, [&](Communicator& tp) {
    Decoder decoder(config_, *weights_, at::kFloat, at::kCPU, tp);
    load_all(decoder);
    expect_gradient(decoder, 1, "probe/plus");
    expect_gradient(decoder, -1, "probe/minus");
  });
}

}  // namespace
}  // namespace bipo
