// Mean differences against sequences that run one by one, and against themselves however the work
// is cut.
#include "trainer/extraction/extraction_pass.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>

#include "collectives/foundation/errors.hpp"
#include "tests/support/borrowed_communicator.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/thread_communicator.hpp"
#include "tests/support/training_world.hpp"

namespace bipo {
namespace {

using testing::BorrowedCommunicator;
using testing::error_of;
using testing::expect_parts;
using testing::ignore_progress;
using testing::lone_ranks;
using testing::RandomWeights;
using testing::tiny_config;
using testing::varied_pairs;

// varied_pairs() has answers of one token; these end with one more, as with an end of sequence.
std::vector<TokenPair> ended_pairs(int count) {
  std::vector<TokenPair> pairs = varied_pairs(count);
  for (TokenPair& pair : pairs) {
    pair.chosen.push_back(2);
    pair.rejected.push_back(2);
  }
  return pairs;
}

std::vector<ExtractedDirection> on_one_rank(const std::vector<TokenPair>& pairs,
                                            const ExtractionSettings& settings,
                                            at::ScalarType type = at::kDouble) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, type, at::kCPU, *ranks.tp);
  return extract_directions(decoder, pairs, settings, mean_difference_statistics(), ranks,
                            ignore_progress);
}

// The output of block `layer` [n, D] for one sequence by itself.
at::Tensor outputs(const Decoder& decoder, const std::vector<TokenId>& sequence,
                   std::int64_t layer) {
  const at::NoGradGuard no_grad;
  const auto length = static_cast<std::int64_t>(sequence.size());
  std::vector<std::int64_t> positions(sequence.size());
  std::iota(positions.begin(), positions.end(), 0);
  const SequenceLayout layout = decoder.layout(positions, {{{0, length}, {}}}, {length - 1});
  const std::vector<std::int64_t> ids(sequence.begin(), sequence.end());
  return decoder.run_blocks(decoder.embed(at::tensor(ids, at::kLong)), {0, layer + 1}, layout);
}

// [D], with every answer as a sequence [prompt | answer] of its own.
at::Tensor from_separate_sequences(const std::vector<TokenPair>& pairs, std::int64_t layer,
                                   bool without_last) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  SelfCommunicator self;
  Decoder decoder(config, weights, at::kDouble, at::kCPU, self);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const auto mean = [&](const TokenPair& pair, const std::vector<TokenId>& answer,
                        const ScoredTokens& scored) {
    std::vector<TokenId> sequence = pair.prompt;
    sequence.insert(sequence.end(), answer.begin(), answer.end());
    const auto first = static_cast<std::int64_t>(pair.prompt.size());
    const auto last = static_cast<std::int64_t>(sequence.size()) - (without_last ? 1 : 0);
    at::Tensor sum = at::zeros({config.hidden}, at::kDouble);
    const at::Tensor rows = outputs(decoder, sequence, layer);
    std::int64_t count = 0;
    for (std::int64_t row = first; row < last; ++row) {
      if (is_scored(scored, static_cast<std::size_t>(row - first))) {
        sum = sum + rows[row];
        ++count;
      }
    }
    return sum / static_cast<double>(count);
  };
  at::Tensor total = at::zeros({config.hidden}, at::kDouble);
  for (const TokenPair& pair : pairs) {
    total = total + mean(pair, pair.chosen, pair.chosen_scored) -
            mean(pair, pair.rejected, pair.rejected_scored);
  }
  return total / static_cast<double>(pairs.size());
}

void expect_near(const ExtractedDirection& found, const at::Tensor& expected) {
  ASSERT_EQ(static_cast<std::int64_t>(found.value.size()), expected.numel());
  for (std::int64_t i = 0; i < expected.numel(); ++i) {
    // Activations of order one through three float64 blocks of products of some 20 terms.
    EXPECT_NEAR(found.value[static_cast<std::size_t>(i)], expected[i].item<double>(), 1e-12) << i;
  }
}

void expect_same_bits(const std::vector<ExtractedDirection>& found,
                      const std::vector<ExtractedDirection>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].layer, expected[i].layer);
    EXPECT_EQ(found[i].value, expected[i].value) << "layer " << found[i].layer;
    EXPECT_EQ(found[i].median_rms, expected[i].median_rms) << "layer " << found[i].layer;
  }
}

TEST(MeanDifference, CountsScoredTokensAlone) {
  for (const bool ends_with_eos : {true, false}) {
    auto pairs = ended_pairs(5);
    for (TokenPair& pair : pairs) {
      pair.chosen.insert(pair.chosen.begin(), {3, 4});
      pair.chosen_scored.assign(pair.chosen.size(), true);
      pair.chosen_scored[1] = false;
    }
    for (const auto& found : on_one_rank(pairs, {{0, 2}, ends_with_eos, true})) {
      expect_near(found, from_separate_sequences(pairs, found.layer, ends_with_eos));
    }
    pairs[3].chosen_scored.assign(pairs[3].chosen.size(), false);
    pairs[3].chosen_scored.back() = true;
    if (ends_with_eos) {
      EXPECT_THROW(require_answer_positions(pairs, true), UserError);
    }
  }
}

TEST(MeanDifference, IsThatOfSeparateSequencesUpToTheEndOfTheText) {
  const auto pairs = ended_pairs(11);
  for (const auto& found : on_one_rank(pairs, {{0, 2}, true, true})) {
    const at::Tensor expected = from_separate_sequences(pairs, found.layer, true);
    expect_near(found, expected);
    // It would show if the last token counted, too.
    EXPECT_GT((from_separate_sequences(pairs, found.layer, false) - expected).norm().item<double>(),
              1e-2);
  }
}

TEST(MeanDifference, WithoutAnEndOfSequenceTheLastTokenCounts) {
  const auto pairs = varied_pairs(11);  // some answers have one token
  for (const auto& found : on_one_rank(pairs, {{0, 2}, false, true})) {
    expect_near(found, from_separate_sequences(pairs, found.layer, false));
  }
}

TEST(MeanDifference, ManyPairsAreAveragedInShares) {
  const auto pairs = ended_pairs(300);
  expect_near(on_one_rank(pairs, {{1}, true, true}).front(),
              from_separate_sequences(pairs, 1, true));
}

TEST(MeanDifference, OrderOfBlocksAndPairsDoesNotMatter) {
  const auto pairs = ended_pairs(11);
  expect_same_bits(on_one_rank(pairs, {{0, 1, 2}, true, false}, at::kFloat),
                   on_one_rank(pairs, {{0, 1, 2}, true, true}, at::kFloat));
}

TEST(MeanDifference, OnePassServesEveryLayer) {
  const auto pairs = ended_pairs(11);
  const auto all = on_one_rank(pairs, {{0, 1, 2}, true, true}, at::kFloat);
  for (std::size_t layer = 0; layer < all.size(); ++layer) {
    expect_same_bits(
        {all[layer]},
        on_one_rank(pairs, {{static_cast<std::int64_t>(layer)}, true, layer == 1}, at::kFloat));
  }
}

TEST(MeanDifference, MedianIsThatOfTheTokensOfTraining) {
  const auto pairs = ended_pairs(11);
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
  CacheSettings settings;
  settings.layers = {1};
  ActivationCache cache(decoder, pairs, settings, ranks);
  fill_caches(decoder, {&cache}, ranks, ignore_progress);
  EXPECT_EQ(on_one_rank(pairs, {{1}, true, true}, at::kFloat).front().median_rms,
            cache.median_rms(1));
}

TEST(MeanDifference, AnyNumberOfReplicasGivesTheSameBits) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  // More and fewer than there are shares, and replicas without any pair.
  for (const int count : {3, 300}) {
    const auto pairs = ended_pairs(count);
    for (const bool block_by_block : {true, false}) {
      const ExtractionSettings settings{{0, 2}, true, block_by_block};
      const auto alone = on_one_rank(pairs, settings, at::kFloat);
      for (const int dp : {2, 5}) {
        run_as_threads(dp, [&](Communicator& group) {
          const Ranks ranks{
              Topology(dp, group.rank(), 1, dp), std::make_unique<BorrowedCommunicator>(group),
              std::make_unique<BorrowedCommunicator>(group),
              std::make_unique<BorrowedCommunicator>(group), std::make_unique<SelfCommunicator>()};
          Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
          expect_same_bits(extract_directions(decoder, pairs, settings,
                                              mean_difference_statistics(), ranks, ignore_progress),
                           alone);
        });
      }
    }
  }
}

TEST(MeanDifference, LeavesHeadAndFinalNormOnly) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  for (const bool block_by_block : {true, false}) {
    Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
    const std::uint64_t before = decoder.loaded_bytes();
    extract_directions(decoder, ended_pairs(3), {{0, 1}, true, block_by_block},
                       mean_difference_statistics(), ranks, ignore_progress);
    EXPECT_EQ(decoder.loaded_bytes(), before);
  }
}

// Replicas have the packs of one by itself, whole shares each.
TEST(ExtractionPacks, AreDealtToReplicas) {
  const std::vector<TokenPair> pairs = ended_pairs(600);
  constexpr std::int64_t kTokens = 64;
  using Packs = std::vector<std::vector<std::int64_t>>;
  const Packs alone = extraction_packs(pairs, kTokens, Topology());
  std::vector<std::int64_t> in_order(pairs.size());
  std::iota(in_order.begin(), in_order.end(), 0);
  std::vector<std::int64_t> found;
  for (const std::vector<std::int64_t>& pack : alone) {
    std::int64_t longest = 0;
    for (const std::int64_t pair : pack) {
      longest = std::max(longest, packed_size(pairs[static_cast<std::size_t>(pair)]));
    }
    EXPECT_TRUE(pack.size() == 1 || fit_into_device_pack(std::ssize(pack), longest, kTokens));
    found.insert(found.end(), pack.begin(), pack.end());
  }
  EXPECT_EQ(found, in_order);
  EXPECT_LT(alone.size(), pairs.size() / 2);
  Packs dealt;
  for (int replica = 0; replica < 3; ++replica) {
    const Packs own = extraction_packs(pairs, kTokens, Topology(3, replica, 1, std::nullopt));
    EXPECT_FALSE(own.empty());
    dealt.insert(dealt.end(), own.begin(), own.end());
  }
  std::sort(dealt.begin(), dealt.end());
  EXPECT_EQ(dealt, alone);
  EXPECT_EQ(extraction_packs(pairs, 1, Topology()).size(), pairs.size());
}

TEST(MeanDifference, AnAnswerThatOnlyEndsIsRefused) {
  auto pairs = ended_pairs(4);
  EXPECT_NO_THROW(require_answer_positions(pairs, true));
  pairs[2].rejected = {2};
  expect_parts(error_of<UserError>([&] { require_answer_positions(pairs, true); }),
               {"varied:3", "rejected"});
  EXPECT_NO_THROW(require_answer_positions(pairs, false));
}

class OverflowingWeights final : public WeightSource {
 public:
  explicit OverflowingWeights(const ModelConfig& config) : weights_(config) {}

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor read = weights_.read(role, block, slice);
    return role == Role::kDown && block == 1 ? read * std::numeric_limits<double>::max() : read;
  }
  std::string place(Role role, std::int64_t block) const override {
    return weights_.place(role, block);
  }
  std::uint64_t fingerprint() const override { return 0; }

 private:
  RandomWeights weights_;
};

TEST(MeanDifference, ActivationsThatOverflowAreAnErrorOfTheirLayer) {
  const ModelConfig config = tiny_config();
  const OverflowingWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, at::kFloat, at::kCPU, *ranks.tp);
  EXPECT_NO_THROW(extract_directions(decoder, ended_pairs(3), {{0}, true, true},
                                     mean_difference_statistics(), ranks, ignore_progress));
  const auto message = error_of<AgreedFailure>([&] {
    extract_directions(decoder, ended_pairs(3), {{0, 1}, true, true}, mean_difference_statistics(),
                       ranks, ignore_progress);
  });
  expect_parts(message, {"block 1", "not finite"});
}

}  // namespace
}  // namespace bipo
