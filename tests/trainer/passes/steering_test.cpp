// Positions and interventions: closed forms, finite differences in float64, and packings that share
// rows only where these are steered alike.
#include "trainer/passes/steering.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

using testing::lone_ranks;
using testing::RandomWeights;
using testing::tiny_config;
using testing::varied_pairs;

std::string rows_text(std::int64_t size, std::int64_t first_token, const std::string& text,
                      std::int64_t left_out_bos = -1) {
  SteeredPositions positions = parse_positions(text);
  positions.left_out_bos = left_out_bos;
  std::string rows;
  for (const bool is_steered : steered_rows_of_prompt(size, first_token, positions)) {
    rows += is_steered ? '1' : '0';
  }
  return rows;
}

TEST(Positions, NameTheRowsOfAPrompt) {
  EXPECT_EQ(rows_text(6, 1, "all"), "111111");
  EXPECT_EQ(rows_text(6, 1, "prompt"), "111111");
  EXPECT_EQ(rows_text(6, 1, "answer"), "000000");
  EXPECT_EQ(rows_text(6, 1, "first:2,last:1"), "110001");
  EXPECT_EQ(rows_text(6, 1, "first:2+last:1"), "110001");
  EXPECT_EQ(rows_text(6, 1, "first:3"), "111000");
  EXPECT_EQ(rows_text(6, 1, "last:2"), "000011");
  EXPECT_EQ(rows_text(2, 1, "first:3,last:3"), "11");
  EXPECT_EQ(rows_text(1, 1, "last:1"), "1");
}

TEST(Positions, LeaveOutTheBeginOfSequenceToken) {
  EXPECT_EQ(rows_text(6, 1, "all", 1), "011111");
  EXPECT_EQ(rows_text(6, 1, "prompt", 1), "011111");
  EXPECT_EQ(rows_text(6, 1, "first:2,last:1", 1), "011001");
  EXPECT_EQ(rows_text(6, 7, "first:2,last:1", 1), "110001");  // begins with another token
  EXPECT_EQ(rows_text(2, 1, "last:2", 1), "01");
}

TEST(Positions, ALastTokenHasNoRow) {
  TokenPair pair{{1, 5}, {7}, {8}, "here"};
  EXPECT_TRUE(has_steered_row(pair, SteeredPositions::kAll));
  EXPECT_FALSE(has_steered_row(pair, SteeredPositions::kAnswer));
  EXPECT_FALSE(has_steered_row(pair, SteeredPositions::kNone));
  pair.rejected = {8, 9};
  EXPECT_TRUE(has_steered_row(pair, SteeredPositions::kAnswer));
  pair.rejected_scored = {false, true};
  EXPECT_FALSE(has_steered_row(pair, SteeredPositions::kAnswer));
  SteeredPositions first = parse_positions("first:1");
  first.left_out_bos = 1;
  EXPECT_TRUE(has_steered_row(pair, first));
  pair.prompt = {1};
  EXPECT_FALSE(has_steered_row(pair, first));
}

TEST(Positions, OnlyRowsThatPredictMatterBehindTheLastBlock) {
  TokenPair pair{{1, 5, 6}, {7}, {8}, "here"};
  const auto predicts = [&](const char* positions) {
    return has_steered_prediction(pair, parse_positions(positions));
  };
  EXPECT_TRUE(predicts("all"));
  EXPECT_TRUE(predicts("prompt"));
  EXPECT_TRUE(predicts("last:1"));
  EXPECT_TRUE(predicts("first:3"));  // the whole prompt
  EXPECT_FALSE(predicts("first:2"));
  EXPECT_FALSE(predicts("answer"));
  EXPECT_FALSE(has_steered_prediction(pair, SteeredPositions::kNone));
  pair.rejected = {8, 9};
  EXPECT_TRUE(predicts("answer"));
  pair.rejected_scored = {true, false};  // what the steered row predicts is not scored
  EXPECT_FALSE(predicts("answer"));
  pair.rejected = {8, 9, 4};
  pair.rejected_scored = {false, false, true};
  EXPECT_FALSE(predicts("answer"));
  pair.chosen_scored = {false};
  EXPECT_FALSE(predicts("prompt"));
  EXPECT_TRUE(predicts("all"));
  SteeredPositions all;
  all.left_out_bos = 1;
  pair = {{1}, {7}, {8}, "here"};
  EXPECT_FALSE(has_steered_prediction(pair, all));
}

TEST(Positions, AreReadAsTheyAreWritten) {
  for (const char* text : {"all", "answer", "prompt", "first:2,last:3", "first:1", "last:4"}) {
    EXPECT_EQ(to_string(parse_positions(text)), text);
  }
  for (const char* text :
       {"", "none", "first", "first:", "first:-1", "first:0", "last:0,first:1", "first:1,",
        "first:1,last", "first:0,last:0", "first:1x", "all,answer"}) {
    EXPECT_THROW(parse_positions(text), UserError) << text;
  }
}

TEST(Intervention, IsReadAsItIsWritten) {
  for (const char* text : {"add", "null", "clamp:0", "clamp:-2.5", "clamp:12"}) {
    EXPECT_EQ(to_string(parse_intervention(text)), text);
  }
  EXPECT_EQ(parse_intervention("clamp:+3").level, 3);
  EXPECT_EQ(to_string({Intervention::Kind::kConceptor, 0.5}), "conceptor:0.5");
  EXPECT_THROW(parse_intervention("conceptor:0.5"), UserError);  // a file is one, or is not
  for (const char* text : {"", "clamp", "clamp:", "clamp:x", "clamp:inf", "clamp:nan", "zero"}) {
    EXPECT_THROW(parse_intervention(text), UserError) << text;
  }
}

at::Tensor doubles(std::vector<std::int64_t> shape) {
  return at::randn(shape, at::kDouble);
}

// One row at a time, by the definition.
at::Tensor naive_projection(const at::Tensor& h, const at::Tensor& shares, const at::Tensor& v) {
  at::Tensor result = h.clone();
  for (std::int64_t t = 0; t < h.size(0); ++t) {
    for (std::int64_t m = 0; m < v.size(0); ++m) {
      result[t] = result[t] - shares[m][t] * h[t].dot(v[m]) / v[m].dot(v[m]) * v[m];
    }
  }
  return result;
}

TEST(ProjectOut, TakesTheComponentAway) {
  at::manual_seed(3);
  const at::Tensor h = doubles({5, 4});
  const at::Tensor v = doubles({2, 4});
  const at::Tensor shares =
      at::tensor({1.0, 0.5, 0.0, 0.0, 0.3, 0.0, 0.0, 1.0, 0.0, 0.7}, at::kDouble).view({2, 5});
  const at::Tensor found = project_out(h, shares, v);
  EXPECT_TRUE(at::allclose(found, naive_projection(h, shares, v), 0, 1e-12));
  EXPECT_NEAR(found[0].dot(v[0]).item<double>(), 0, 1e-12);
  EXPECT_TRUE(found[3].equal(h[3]));
}

TEST(ProjectOut, HasTheGradientsOfFiniteDifferences) {
  at::manual_seed(4);
  const at::Tensor h = doubles({4, 3});
  const at::Tensor v = doubles({2, 3});
  const at::Tensor shares = at::rand({2, 4}, at::kDouble);
  const at::Tensor weights = doubles({4, 3});
  const auto loss = [&](const at::Tensor& rows, const at::Tensor& vectors) {
    return (project_out(rows, shares, vectors) * weights).sum();
  };
  const at::Tensor rows = h.clone().set_requires_grad(true);
  const at::Tensor vectors = v.clone().set_requires_grad(true);
  loss(rows, vectors).backward();
  constexpr double kStep = 1e-6;
  const auto check = [&](const at::Tensor& at_point, const at::Tensor& gradient,
                         const auto& loss_at) {
    for (std::int64_t i = 0; i < at_point.numel(); ++i) {
      at::Tensor ahead = at_point.clone();
      at::Tensor behind = at_point.clone();
      ahead.view(-1)[i] += kStep;
      behind.view(-1)[i] -= kStep;
      const double slope = (loss_at(ahead) - loss_at(behind)).template item<double>() / (2 * kStep);
      EXPECT_NEAR(gradient.view(-1)[i].item<double>(), slope, 1e-7) << i;
    }
  };
  check(h, rows.grad(), [&](const at::Tensor& x) { return loss(x, v); });
  check(v, vectors.grad(), [&](const at::Tensor& x) { return loss(h, x); });
}

TEST(ProjectOut, AVectorOfZerosChangesNothing) {
  at::manual_seed(5);
  const at::Tensor h = doubles({3, 4});
  const at::Tensor zeros = at::zeros({1, 4}, at::kDouble).set_requires_grad(true);
  const at::Tensor found = project_out(h, at::ones({1, 3}, at::kDouble), zeros);
  EXPECT_TRUE(found.equal(h));
  found.sum().backward();
  EXPECT_EQ(zeros.grad().abs().max().item<double>(), 0);
}

// 1/(v.v) of such a vector is infinite in float32.
TEST(ProjectOut, AVectorTooShortForItsSquareChangesNothing) {
  const at::Tensor h = at::ones({3, 4}, at::kFloat);
  const at::Tensor vector = at::full({1, 4}, 1e-20F).set_requires_grad(true);
  const at::Tensor found = project_out(h, at::ones({1, 3}, at::kFloat), vector);
  EXPECT_TRUE(at::equal(found, h));
  found.sum().backward();
  EXPECT_EQ(vector.grad().abs().max().item<float>(), 0);
}

TEST(Steer, PassesTheRowsGradientWhereTheyWantOne) {
  at::manual_seed(6);
  const at::Tensor h = doubles({3, 4}).set_requires_grad(true);
  const at::Tensor v = doubles({1, 4}).set_requires_grad(true);
  const at::Tensor coefficients = at::tensor({1.0, 0.0, -2.0}, at::kDouble).view({1, 3});
  const at::Tensor weights = doubles({3, 4});
  (steer(h, coefficients, v) * weights).sum().backward();
  EXPECT_TRUE(h.grad().equal(weights));
  EXPECT_TRUE(at::allclose(v.grad()[0], weights[0] - 2 * weights[2]));
}

class Steered : public ::testing::Test {
 protected:
  Steered()
      : config_(tiny_config()),
        weights_(config_),
        ranks_(lone_ranks()),
        decoder_(config_, weights_, at::kDouble, at::kCPU, *ranks_.tp) {
    decoder_.load_embedding();
    decoder_.load_blocks({0, config_.blocks});
  }

  ModelConfig config_;
  RandomWeights weights_;
  Ranks ranks_;
  Decoder decoder_;
};

TEST_F(Steered, VectorsInUseActByTheirInterventionRowByRow) {
  at::manual_seed(7);
  const at::Tensor value = at::randn({config_.hidden}, at::kFloat);
  const float* begin = value.const_data_ptr<float>();
  const std::vector<float> numbers(begin, begin + config_.hidden);
  const at::Tensor v = value.to(at::kDouble);
  const at::Tensor unit = v / v.norm();
  const at::Tensor h = doubles({4, config_.hidden});
  const at::Tensor c = at::tensor({1.0, 0.0, -0.5, 2.0}, at::kDouble).view({1, 4});
  const auto steered = [&](const char* text) {
    return SteeringVectors({{1, numbers, parse_intervention(text)}}, decoder_).steer(h, 1, c);
  };
  const at::Tensor added = steered("add");
  const at::Tensor nulled = steered("null");
  const at::Tensor clamped = steered("clamp:3");
  for (const at::Tensor& found : {added, nulled, clamped}) {
    EXPECT_TRUE(found[1].equal(h[1]));
  }
  for (const std::int64_t t : {0, 2, 3}) {
    const double share = c[0][t].item<double>();
    const at::Tensor component = h[t].dot(unit);
    EXPECT_TRUE(at::allclose(added[t], h[t] + share * v, 0, 1e-12));
    EXPECT_TRUE(at::allclose(nulled[t], h[t] - share * component * unit, 0, 1e-12));
    EXPECT_NEAR(clamped[t].dot(unit).item<double>(), 3 * share, 1e-12);
    EXPECT_TRUE(
        at::allclose(clamped[t] - clamped[t].dot(unit) * unit, h[t] - component * unit, 0, 1e-12));
  }
}

TEST_F(Steered, ARowsInterventionDoesNotDependOnTheOthers) {
  at::manual_seed(8);
  const at::Tensor h = at::randn({9, config_.hidden}, at::kFloat);
  const std::vector<float> ones(static_cast<std::size_t>(config_.hidden), 0.25F);
  const Decoder decoder(config_, weights_, at::kFloat, at::kCPU, *ranks_.tp);
  for (const char* text : {"null", "clamp:2"}) {
    const SteeringVectors vectors({{0, ones, parse_intervention(text)}}, decoder);
    const at::Tensor together = vectors.steer(h, 0, at::ones({1, 9}, at::kFloat));
    for (std::int64_t t = 0; t < 9; ++t) {
      const at::Tensor alone = vectors.steer(h.narrow(0, t, 1), 0, at::ones({1, 1}, at::kFloat));
      EXPECT_TRUE(together[t].equal(alone[0])) << text << t;
    }
  }
}

// C = diag(1, 1/2, 1/4, ...): each dimension is multiplied by its own number.
std::vector<float> halving_conceptor(std::int64_t hidden) {
  std::vector<float> matrix(static_cast<std::size_t>(hidden * hidden), 0.0F);
  float pass = 1;
  for (std::int64_t i = 0; i < hidden; ++i, pass /= 2) {
    matrix[static_cast<std::size_t>(i * (hidden + 1))] = pass;
  }
  return matrix;
}

TEST_F(Steered, AConceptorPutsBetaTimesWhatPassesInTheRowsPlace) {
  at::manual_seed(10);
  constexpr double kBeta = 1.5;
  const at::Tensor h = doubles({4, config_.hidden});
  const at::Tensor c = at::tensor({1.0, 0.0, -0.5, 2.0}, at::kDouble).view({1, 4});
  const SteeringVectors conceptors(
      {{1, halving_conceptor(config_.hidden), {Intervention::Kind::kConceptor, kBeta}}}, decoder_);
  const at::Tensor found = conceptors.steer(h, 1, c);
  EXPECT_TRUE(found[1].equal(h[1]));
  EXPECT_TRUE(conceptors.steer(h, 0, c).equal(h));  // another layer
  for (const std::int64_t t : {0, 2, 3}) {
    const double m = c[0][t].item<double>();
    for (std::int64_t i = 0; i < config_.hidden; ++i) {
      const double number = h[t][i].item<double>();
      const double passed = kBeta * std::ldexp(number, -static_cast<int>(i));
      EXPECT_NEAR(found[t][i].item<double>(), number + m * (passed - number), 1e-12) << t << i;
    }
  }
}

TEST_F(Steered, AConceptorReadsAllOfARow) {
  at::manual_seed(11);
  const at::Tensor rows = doubles({5, config_.hidden});
  const at::Tensor matrix = rows.t().matmul(rows).to(at::kFloat).contiguous();
  const float* begin = matrix.const_data_ptr<float>();
  const at::Tensor h = doubles({3, config_.hidden});
  const SteeringVectors conceptors(
      {{0, {begin, begin + matrix.numel()}, {Intervention::Kind::kConceptor, 1}}}, decoder_);
  const at::Tensor found = conceptors.steer(h, 0, at::ones({1, 3}, at::kDouble));
  for (std::int64_t t = 0; t < 3; ++t) {
    EXPECT_TRUE(at::allclose(found[t], matrix.to(at::kDouble).mv(h[t]), 0, 1e-10)) << t;
  }
}

TEST_F(Steered, VectorsAndConceptorsOfALayerActInTheirOrder) {
  at::manual_seed(12);
  const at::Tensor h = doubles({2, config_.hidden});
  const std::vector<float> ones(static_cast<std::size_t>(config_.hidden), 1.0F);
  const PlacedVector vector{1, ones, {}};
  const PlacedVector conceptor{
      1, halving_conceptor(config_.hidden), {Intervention::Kind::kConceptor, 1}};
  const at::Tensor c = at::ones({2, 2}, at::kDouble);
  const at::Tensor passes =
      at::pow(0.5, at::arange(config_.hidden, at::TensorOptions().dtype(at::kDouble)));
  const at::Tensor added_first = SteeringVectors({vector, conceptor}, decoder_).steer(h, 1, c);
  EXPECT_TRUE(at::allclose(added_first, (h + 1) * passes, 0, 1e-12));
  const at::Tensor added_last = SteeringVectors({conceptor, vector}, decoder_).steer(h, 1, c);
  EXPECT_TRUE(at::allclose(added_last, h * passes + 1, 0, 1e-12));
}

TEST_F(Steered, AConceptorKeepsRowsApartWhereTheModelDoes) {
  at::manual_seed(13);
  const Decoder decoder(config_, weights_, at::kFloat, at::kCPU, *ranks_.tp);
  const at::Tensor h = at::randn({70, config_.hidden}, at::kFloat);
  const at::Tensor rows = at::randn({5, config_.hidden}, at::kFloat);
  const at::Tensor matrix = rows.t().matmul(rows).contiguous();
  const float* begin = matrix.const_data_ptr<float>();
  const SteeringVectors conceptors(
      {{0, {begin, begin + matrix.numel()}, {Intervention::Kind::kConceptor, 1}}}, decoder);
  const at::Tensor together = conceptors.steer(h, 0, at::ones({1, 70}, at::kFloat));
  for (std::int64_t t = 0; t < 70; ++t) {
    const at::Tensor alone = conceptors.steer(h.narrow(0, t, 1), 0, at::ones({1, 1}, at::kFloat));
    // Elsewhere sums of some 30 float32 products may be taken in another order.
    const double tolerance = decoder.has_independent_cached_rows() ? 0 : 1e-4;
    EXPECT_LE((together[t] - alone[0]).abs().max().item<double>(), tolerance) << t;
  }
}

TEST_F(Steered, AConceptorOfAnotherSizeIsABug) {
  const std::vector<float> vector(static_cast<std::size_t>(config_.hidden), 1.0F);
  EXPECT_THROW(SteeringVectors({{0, vector, {Intervention::Kind::kConceptor, 1}}}, decoder_),
               BugError);
}

// Every token of every pair is steered as its own rule says, whatever is shared.
TEST_F(Steered, PackedPairsAreSteeredAtTheirPositions) {
  std::vector<TokenPair> pairs = varied_pairs(6);
  pairs.push_back(pairs[2]);  // a prompt that occurs twice
  for (const char* text : {"all", "answer", "prompt", "first:2,last:2", "last:3", "first:4"}) {
    const SteeredPositions positions = parse_positions(text);
    std::vector<PackItem> items;
    for (std::size_t p = 0; p < pairs.size(); ++p) {
      items.push_back({static_cast<std::int64_t>(p), {0, -1, 0.5, positions}});
    }
    const PackedPairs packed = pack_pairs(pairs, items, decoder_);
    const at::Tensor coefficients = steering_coefficients(packed, 1, at::kDouble);
    std::vector<std::int64_t> all;
    for (std::size_t p = 0; p < pairs.size(); ++p) {
      all.push_back(static_cast<std::int64_t>(p));
    }
    const auto rows = rows_of_pairs(packed, all);
    for (std::size_t p = 0; p < pairs.size(); ++p) {
      const auto prompt = static_cast<std::int64_t>(pairs[p].prompt.size());
      const std::vector<bool> of_prompt =
          steered_rows_of_prompt(prompt, pairs[p].prompt.front(), positions);
      if (p + 1 == pairs.size() || p == 2) {
        continue;  // alike: rows_of_pairs() knows both by the tokens that they share
      }
      ASSERT_EQ(static_cast<std::int64_t>(rows[p].size()), packed_size(pairs[p]));
      for (std::size_t i = 0; i < rows[p].size(); ++i) {
        const bool is_steered = i < pairs[p].prompt.size() ? static_cast<bool>(of_prompt[i])
                                                           : positions.steers_answers();
        EXPECT_EQ(coefficients[0][rows[p][i]].item<double>(), is_steered ? -0.5 : 0)
            << text << " pair " << p << " token " << i;
      }
    }
  }
}

TEST_F(Steered, TheGradientAtPositionsIsThatOfFiniteDifferences) {
  const std::vector<TokenPair> pairs = varied_pairs(3);
  constexpr std::int64_t kLayer = 0;
  for (const char* text : {"all", "answer", "prompt", "first:1,last:2"}) {
    const PackedPairs packed = pack_pairs(pairs,
                                          {{0, {0, 1, 1, parse_positions(text)}},
                                           {1, {0, -1, 1, parse_positions(text)}},
                                           {2, {0, 1, 0.5, parse_positions(text)}}},
                                          decoder_);
    const at::Tensor hidden = run_prefix(decoder_, packed, kLayer);
    const at::Tensor coefficients = steering_coefficients(packed, 1, at::kDouble);
    const auto sum_at = [&](const at::Tensor& v) {
      return target_log_probs(decoder_, packed, hidden, {kLayer, coefficients, v}).sum();
    };
    at::manual_seed(9);
    const at::Tensor v = 0.1 * doubles({1, config_.hidden});
    const at::Tensor leaf = v.clone().set_requires_grad(true);
    sum_at(leaf).backward();
    const at::Tensor direction = doubles({1, config_.hidden});
    constexpr double kStep = 1e-5;
    const double slope =
        (sum_at(v + kStep * direction) - sum_at(v - kStep * direction)).item<double>() /
        (2 * kStep);
    EXPECT_NEAR((leaf.grad() * direction).sum().item<double>(), slope, 1e-5) << text;
    EXPECT_GT(leaf.grad().abs().max().item<double>(), 1e-4) << text;
  }
}

}  // namespace
}  // namespace bipo
