// Answers under several vectors at many settings, and divergences, against a naive float64 forward
// of each sequence by itself.
#include "trainer/passes/continuation_scores.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

#include "collectives/foundation/errors.hpp"
#include "collectives/self_communicator.hpp"
#include "tests/support/borrowed_communicator.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/naive_decoder.hpp"
#include "tests/support/thread_communicator.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/loop/held_out_evaluation.hpp"
#include "trainer/model/operators/head.hpp"

namespace bipo {
namespace {

using testing::BorrowedCommunicator;
using testing::lone_ranks;
using testing::naive_log_probs;
using testing::RandomWeights;
using testing::tiny_config;
using testing::varied_pairs;

// The residual stream of a float64 decoder is exact to 1e-15; rotary angles are float32 in both.
constexpr double kExact = 1e-6;

using AddedToBlocks = std::map<std::int64_t, at::Tensor>;

// Items with one, two and four answers; the second prompt is the beginning of the third, the last
// two are alike.
std::vector<Continuations> tiny_items() {
  return {{{1, 5, 9, 3}, {{7, 8, 2}, {11, 2}}, "i:1"},
          {{4, 4}, {{20}}, "i:2"},
          {{4, 4, 32, 33, 34}, {{6, 5}, {0, 1, 2}, {6}, {6, 5, 4, 3}}, "i:3"},
          {{9}, {{30, 31}, {2}}, "i:4"},
          {{4, 7, 1}, {{3, 4, 5}, {3, 4, 6}}, "i:5"},
          {{4, 7, 1}, {{12, 3, 4, 5}}, "i:6"}};
}

// Two vectors at block 0 and one at the last block.
std::vector<PlacedVector> tiny_vectors(const ModelConfig& config) {
  at::manual_seed(5);
  std::vector<PlacedVector> vectors;
  for (const std::int64_t layer : {std::int64_t{0}, config.blocks - 1, std::int64_t{0}}) {
    const at::Tensor value = at::randn({config.hidden}, at::kFloat) * 0.3;
    const float* begin = value.const_data_ptr<float>();
    vectors.push_back({layer, {begin, begin + config.hidden}});
  }
  return vectors;
}

// What a setting adds to the blocks' outputs of one sequence of `length` tokens.
AddedToBlocks added_by(const std::vector<PlacedVector>& vectors,
                       const std::vector<double>& coefficients, SteeredPositions positions,
                       std::size_t prompt, std::size_t length) {
  at::Tensor rows = at::zeros({static_cast<std::int64_t>(length), 1}, at::kDouble);
  const auto first = static_cast<std::size_t>(positions.first);
  const auto last = static_cast<std::size_t>(positions.last);
  for (std::size_t t = 0; t < length; ++t) {
    const bool is_at_end = t < prompt && (t < first || t + last >= prompt);
    const bool is_steered = t < prompt ? positions.kind == SteeredPositions::Kind::kEnds
                                             ? is_at_end
                                             : positions.steers_prompts()
                                       : positions.steers_answers();
    rows[static_cast<std::int64_t>(t)] = is_steered ? 1 : 0;
  }
  AddedToBlocks added;
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    const at::Tensor value = at::tensor(vectors[i].value, at::kFloat).to(at::kDouble);
    const at::Tensor term = rows * value * coefficients[i];
    const auto [place, is_new] = added.try_emplace(vectors[i].layer, term);
    if (!is_new) {
      place->second = place->second + term;
    }
  }
  return added;
}

// The summed log-probability of `answer` after `prompt`.
double naive_answer(const ModelConfig& config, const RandomWeights& weights,
                    const std::vector<TokenId>& prompt, const std::vector<TokenId>& answer,
                    const AddedToBlocks& added) {
  std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  ids.insert(ids.end(), answer.begin(), answer.end());
  const at::Tensor log_probs = naive_log_probs(config, weights, ids, added);
  double sum = 0;
  for (std::size_t i = prompt.size(); i < ids.size(); ++i) {
    sum += log_probs[static_cast<std::int64_t>(i) - 1][ids[i]].item<double>();
  }
  return sum;
}

struct World {
  explicit World(const ModelConfig& of = tiny_config(), at::ScalarType type = at::kDouble)
      : config(of),
        weights(config),
        ranks(lone_ranks()),
        decoder(config, weights, type, at::kCPU, *ranks.tp),
        placed(tiny_vectors(config)),
        vectors(placed, decoder) {
    decoder.load_embedding();
    decoder.load_blocks({0, config.blocks});
  }

  ScoringContext groups_of(std::int64_t size) const { return {decoder, ranks, size, {}}; }

  ModelConfig config;
  RandomWeights weights;
  Ranks ranks;
  Decoder decoder;
  std::vector<PlacedVector> placed;
  SteeringVectors vectors;
};

const std::vector<std::vector<double>> kSettings = {
    {0, 0, 0}, {1, 0, 0}, {-2, 0.5, 0.25}, {0, 1.5, 0}, {0, 0, 0}};

// Tokens that are not scored: the first ones, the middle ones, none.
TEST(ContinuationScores, TokensThatAreNotScoredAreContextAlone) {
  const World world;
  std::vector<Continuations> items = tiny_items();
  items[0].scored = {{false, true, true}, {}};
  items[2].scored = {{}, {true, false, true}, {}, {false, false, true, true}};
  for (const auto positions : {SteeredPositions::kAll, SteeredPositions::kAnswer}) {
    for (const std::int64_t group : {1, 6}) {
      const ContinuationScores scores =
          score_continuations(world.groups_of(group), items, world.vectors, {kSettings, positions});
      for (std::size_t s = 0; s < kSettings.size(); ++s) {
        for (const std::size_t i : {0, 2}) {
          const std::vector<TokenId>& prompt = items[i].prompt;
          for (std::size_t a = 0; a < items[i].answers.size(); ++a) {
            std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
            ids.insert(ids.end(), items[i].answers[a].begin(), items[i].answers[a].end());
            AddedToBlocks added =
                added_by(world.placed, kSettings[s], positions, prompt.size(), ids.size());
            double sum = 0;
            std::int64_t count = 0;
            for (std::size_t t = prompt.size(); t < ids.size(); ++t) {
              if (positions == SteeredPositions::kAnswer &&
                  !is_scored(items[i].scored[a], t - prompt.size())) {
                for (auto& [layer, rows] : added) {
                  rows.select(0, static_cast<std::int64_t>(t)).zero_();
                }
              }
            }
            const at::Tensor log_probs = naive_log_probs(world.config, world.weights, ids, added);
            for (std::size_t t = prompt.size(); t < ids.size(); ++t) {
              if (is_scored(items[i].scored[a], t - prompt.size())) {
                sum += log_probs[static_cast<std::int64_t>(t) - 1][ids[t]].item<double>();
                ++count;
              }
            }
            EXPECT_NEAR(scores[s][i][a].log_prob, sum, kExact) << s << " " << i << " " << a;
            EXPECT_EQ(scores[s][i][a].tokens, count);
          }
        }
      }
    }
  }
  items[2].scored[1].back() = false;
  EXPECT_THROW(score_continuations(world.groups_of(1), items, world.vectors,
                                   {kSettings, SteeredPositions::kAll}),
               BugError);
}

TEST(ContinuationScores, EqualEverySequenceByItself) {
  const World world;
  const auto items = tiny_items();
  for (const auto& positions :
       {SteeredPositions::kAll, SteeredPositions::kAnswer, parse_positions("prompt"),
        parse_positions("first:2,last:1"), parse_positions("last:2")}) {
    for (const std::int64_t group : {1, 4, 6}) {
      const ContinuationScores scores =
          score_continuations(world.groups_of(group), items, world.vectors, {kSettings, positions});
      ASSERT_EQ(scores.size(), kSettings.size());
      for (std::size_t s = 0; s < kSettings.size(); ++s) {
        ASSERT_EQ(scores[s].size(), items.size());
        for (std::size_t i = 0; i < items.size(); ++i) {
          ASSERT_EQ(scores[s][i].size(), items[i].answers.size());
          for (std::size_t a = 0; a < items[i].answers.size(); ++a) {
            const auto& answer = items[i].answers[a];
            const std::size_t prompt = items[i].prompt.size();
            EXPECT_EQ(scores[s][i][a].tokens, static_cast<std::int64_t>(answer.size()));
            EXPECT_NEAR(scores[s][i][a].log_prob,
                        naive_answer(world.config, world.weights, items[i].prompt, answer,
                                     added_by(world.placed, kSettings[s], positions, prompt,
                                              prompt + answer.size())),
                        kExact)
                << "setting " << s << ", item " << i << ", answer " << a << ", groups of " << group;
          }
        }
      }
    }
  }
}

// What an intervention does to rows h, by the definitions of Intervention.
at::Tensor intervened(const at::Tensor& h, const at::Tensor& vector, double c,
                      const Intervention& intervention) {
  const at::Tensor unit = vector / vector.norm();
  const at::Tensor component = at::matmul(h, unit).unsqueeze(1);
  switch (intervention.kind) {
    case Intervention::Kind::kNull:
      return h - c * component * unit;
    case Intervention::Kind::kClamp:
      return c == 0 ? h : h + (c * intervention.level - component) * unit;
    default:
      return h + c * vector;
  }
}

// Behind the MLPs is a norm, so that nothing at the blocks' outputs does the same.
TEST(ContinuationScores, InterventionsActOnWhatMlpsReturn) {
  ModelConfig config = tiny_config();
  config.output_norms = true;
  const World world(config);
  const std::vector<std::vector<double>> settings = {{0, 0}, {1, 0}, {-0.5, 2}};
  const std::vector<Continuations> items = tiny_items();
  for (const char* text : {"add", "null", "clamp:1.5"}) {
    const Intervention intervention = parse_intervention(text);
    std::vector<PlacedVector> placed = {world.placed[0], world.placed[1]};
    for (PlacedVector& vector : placed) {
      vector.intervention = intervention;
      vector.site = Site::kMlp;
    }
    const auto found =
        score_continuations(world.groups_of(4), items, SteeringVectors(placed, world.decoder),
                            {settings, SteeredPositions::kAll});
    for (std::size_t s = 0; s < settings.size(); ++s) {
      testing::NaiveMlpChanges changes;
      for (std::size_t v = 0; v < placed.size(); ++v) {
        const at::Tensor vector = at::tensor(placed[v].value, at::kFloat).to(at::kDouble);
        changes[placed[v].layer] = [vector, c = settings[s][v], intervention](const at::Tensor& h) {
          return intervened(h, vector, c, intervention);
        };
      }
      for (std::size_t i = 0; i < items.size(); ++i) {
        std::vector<std::int64_t> ids(items[i].prompt.begin(), items[i].prompt.end());
        ids.insert(ids.end(), items[i].answers[0].begin(), items[i].answers[0].end());
        const at::Tensor log_probs = naive_log_probs(world.config, world.weights, ids, {}, changes);
        double sum = 0;
        for (std::size_t t = items[i].prompt.size(); t < ids.size(); ++t) {
          sum += log_probs[static_cast<std::int64_t>(t) - 1][ids[t]].item<double>();
        }
        EXPECT_NEAR(found[s][i][0].log_prob, sum, kExact) << text << " " << s << " " << i;
      }
    }
    EXPECT_GT(std::abs(found[0][0][0].log_prob - found[1][0][0].log_prob), 1e-4) << text;
  }
}

// Two prompts are alike, and the gate of one is closed.
TEST(ContinuationScores, AClosedGateLeavesAnItemUnsteered) {
  const World world;
  const std::vector<bool> is_open = {true, false, false, true, true, false};
  const auto score = [&](std::vector<bool> gates) {
    return score_continuations(world.groups_of(6), tiny_items(), world.vectors,
                               {{{1, 0.5, -1}}, SteeredPositions::kAll, std::move(gates)});
  };
  const auto open = score({});
  const auto closed = score(std::vector<bool>(6, false));
  const auto gated = score(is_open);
  for (std::size_t i = 0; i < is_open.size(); ++i) {
    EXPECT_GT(std::abs(open[0][i][0].log_prob - closed[0][i][0].log_prob), 1e-4);
    EXPECT_NEAR(gated[0][i][0].log_prob, (is_open[i] ? open : closed)[0][i][0].log_prob, kExact);
  }
}

TEST(Gates, AreTheLastTokensComponentsWithoutSteering) {
  const World world;
  std::vector<PromptTokens> prompts;
  for (const Continuations& item : tiny_items()) {
    prompts.push_back({item.prompt, item.where});
  }
  for (const std::int64_t layer : {std::int64_t{0}, world.config.blocks - 1}) {
    Gate gate{{layer, world.placed.front().value}, 0};
    const auto found = gate_projections(world.groups_of(4), prompts, gate);
    const at::Tensor vector = at::tensor(gate.vector.value, at::kFloat).to(at::kDouble);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const PackedAnswers alone = pack_alike(
          std::vector<Continuations>{{prompts[i].ids, {{prompts[i].ids.back()}}, "alone"}}, {0},
          world.decoder);
      const at::Tensor last = run_prefix(world.decoder, alone, layer)[-1];
      EXPECT_NEAR(found[i], (last.dot(vector) / vector.norm()).item<double>(), kExact);
    }
    gate.threshold = found[2];
    const auto open = open_gates(world.groups_of(4), prompts, gate);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(open[i], found[i] > found[2]);  // at the threshold it is closed
    }
  }
  EXPECT_THROW(gate_projections(world.groups_of(4), prompts,
                                {{0, std::vector<float>(world.placed.front().value.size())}, 0}),
               BugError);
}

TEST(ContinuationScores, PositionsMatter) {
  const World world;
  const auto score = [&](SteeredPositions positions) {
    return score_continuations(world.groups_of(6), tiny_items(), world.vectors,
                               {{{1, 0, 0}}, positions});
  };
  const auto all = score(SteeredPositions::kAll);
  const auto answers = score(SteeredPositions::kAnswer);
  EXPECT_GT(std::abs(all[0][0][0].log_prob - answers[0][0][0].log_prob), 1e-3);
  // What predicts an answer of one token is not its own row.
  const auto none = score_continuations(world.groups_of(6), tiny_items(), world.vectors,
                                        {{{0, 0, 0}}, SteeredPositions::kAll});
  EXPECT_EQ(answers[0][1][0].log_prob, none[0][1][0].log_prob);
}

TEST(ContinuationScores, EqualSettingsGiveEqualBits) {
  const World world(tiny_config(), at::kFloat);
  const auto scores = score_continuations(world.groups_of(4), tiny_items(), world.vectors,
                                          {kSettings, SteeredPositions::kAll});
  const SteeringVectors none({}, world.decoder);
  const auto without =
      score_continuations(world.groups_of(4), tiny_items(), none, {{{}}, SteeredPositions::kAll});
  for (std::size_t i = 0; i < scores[0].size(); ++i) {
    for (std::size_t a = 0; a < scores[0][i].size(); ++a) {
      EXPECT_EQ(scores[0][i][a].log_prob, scores[4][i][a].log_prob);
      EXPECT_EQ(scores[0][i][a].log_prob, without[0][i][a].log_prob);
    }
  }
}

// Replicas as threads, each with a decoder of its own.
ContinuationScores score_on_replicas(int replicas, const std::vector<Continuations>& items) {
  const ModelConfig config = tiny_config();
  const RandomWeights weights(config);
  const auto placed = tiny_vectors(config);  // drawn here: threads share the generator
  ContinuationScores of_last;
  run_as_threads(replicas, [&](Communicator& dp) {
    SelfCommunicator self;
    Decoder decoder(config, weights, at::kFloat, at::kCPU, self);
    decoder.load_embedding();
    decoder.load_blocks({0, config.blocks});
    const SteeringVectors vectors(placed, decoder);
    const Ranks ranks{
        Topology(replicas, dp.rank(), 1, std::nullopt), std::make_unique<BorrowedCommunicator>(dp),
        std::make_unique<BorrowedCommunicator>(dp), std::make_unique<BorrowedCommunicator>(dp),
        std::make_unique<SelfCommunicator>()};
    const auto scores = score_continuations({decoder, ranks, 2, {}}, items, vectors,
                                            {kSettings, SteeredPositions::kAll});
    if (dp.rank() == replicas - 1) {
      of_last = scores;
    }
  });
  return of_last;
}

TEST(ContinuationScores, AreTheSameBitsOnAnyNumberOfReplicas) {
  const auto items = tiny_items();
  const ContinuationScores alone = score_on_replicas(1, items);
  for (const int replicas : {2, 4}) {
    const ContinuationScores shared = score_on_replicas(replicas, items);
    for (std::size_t s = 0; s < alone.size(); ++s) {
      for (std::size_t i = 0; i < items.size(); ++i) {
        for (std::size_t a = 0; a < items[i].answers.size(); ++a) {
          EXPECT_EQ(shared[s][i][a].log_prob, alone[s][i][a].log_prob);
        }
      }
    }
  }
}

TEST(ContinuationScores, NumbersThatAreNotFiniteNameTheItem) {
  const World world(tiny_config(), at::kFloat);
  const std::string message = testing::error_of<AgreedFailure>([&] {
    score_continuations(world.groups_of(4), tiny_items(), world.vectors,
                        {{{1e39, 0, 0}}, SteeredPositions::kAll});
  });
  testing::expect_parts(message, {"i:1", "nan", "multipliers"});
}

// Training's evaluation of pairs and this one are different paths to the same numbers.
TEST(ContinuationScores, AgreeWithTheEvaluationInTraining) {
  const World world(tiny_config(), at::kFloat);
  const std::vector<TokenPair> pairs = varied_pairs(9);
  Decoder decoder(world.config, world.weights, at::kFloat, at::kCPU, *world.ranks.tp);
  CacheSettings cache_settings;
  cache_settings.layers = {0};
  ActivationCache cache(decoder, pairs, cache_settings, world.ranks);
  fill_caches(decoder, {&cache}, world.ranks,
              [](const std::string&, std::int64_t, std::int64_t) {});
  const std::vector<double> multipliers = {-1, 0, 2};
  const auto [rows, samples] = evaluate_pairs({decoder, world.ranks, 4, {}}, cache, 0,
                                              world.placed[0].value, multipliers, Objective());
  std::vector<Continuations> items;
  for (const TokenPair& pair : pairs) {
    items.push_back({pair.prompt, {pair.chosen, pair.rejected}, pair.where});
  }
  const auto scores =
      score_continuations(world.groups_of(4), items, world.vectors,
                          {{{-1, 0, 0}, {0, 0, 0}, {2, 0, 0}}, SteeredPositions::kAll});
  for (std::size_t m = 0; m < multipliers.size(); ++m) {
    double chosen = 0;
    double accuracy = 0;
    for (const auto& answers : scores[m]) {
      chosen += answers[0].log_prob / static_cast<double>(pairs.size());
      accuracy += (answers[0].log_prob > answers[1].log_prob ? 1.0 : 0.0) /
                  static_cast<double>(pairs.size());
    }
    // Float32 over three blocks, answers of up to five tokens of some 4 nats.
    EXPECT_NEAR(rows[m].chosen_logp, chosen, 1e-4);
    for (std::size_t p = 0; p < pairs.size(); ++p) {
      const EvalSampleRow& sample = samples.at(m * pairs.size() + p);
      EXPECT_EQ(sample.multiplier, multipliers[m]);
      EXPECT_EQ(sample.pair, static_cast<std::int64_t>(p));
      EXPECT_NEAR(sample.chosen_logp, scores[m][p][0].log_prob, 1e-4);
      EXPECT_NEAR(sample.rejected_logp, scores[m][p][1].log_prob, 1e-4);
    }
    EXPECT_DOUBLE_EQ(rows[m].accuracy, accuracy);
  }
}

// [T]: sum_v p (log p - log q).
at::Tensor plain_divergence(const at::Tensor& log_p, const at::Tensor& log_q) {
  return (log_p.exp() * (log_p - log_q)).sum(1);
}

TEST(TokenDivergences, EqualThePlainSoftmax) {
  at::manual_seed(11);
  const at::Tensor h = at::randn({5, 12}, at::kDouble);
  const at::Tensor near = h + 1e-4 * at::randn({5, 12}, at::kDouble);
  const at::Tensor far = 3 * at::randn({5, 12}, at::kDouble);
  // More rows than fit into one block.
  const at::Tensor head = at::randn({(1 << 21) / 12 + 777, 12}, at::kDouble);
  SelfCommunicator self;
  for (const double cap : {0.0, 2.5}) {
    const auto log_softmax = [&](const at::Tensor& x) {
      const at::Tensor logits = at::mm(x, head.t());
      return at::log_softmax(cap == 0 ? logits : at::tanh(logits / cap) * cap, 1);
    };
    const at::Tensor result = token_divergences(h, {near, h, far}, {head, head.size(0), cap, self});
    ASSERT_EQ(result.sizes(), (std::vector<std::int64_t>{3, 5}));
    const at::Tensor log_p = log_softmax(h);
    EXPECT_LT((result[0] - plain_divergence(log_p, log_softmax(near))).abs().max().item<double>(),
              1e-13);
    EXPECT_EQ(result[1].abs().max().item<double>(), 0);
    EXPECT_LT((result[2] - plain_divergence(log_p, log_softmax(far))).abs().max().item<double>(),
              1e-11);
    EXPECT_GT(result[0].min().item<double>(), 1e-12) << "nothing to see";
  }
}

TEST(TokenDivergences, ShardsOfTheVocabularyEqualTheWhole) {
  at::manual_seed(12);
  const at::Tensor h = at::randn({4, 6}, at::kDouble);
  const at::Tensor other = at::randn({4, 6}, at::kDouble);
  const at::Tensor head = at::randn({37, 6}, at::kDouble) * 2;
  SelfCommunicator self;
  const at::Tensor whole = token_divergences(h, {other}, {head, 37, 4, self});
  for (const int tp : {2, 3, 5}) {
    run_as_threads(tp, [&](Communicator& group) {
      const std::int64_t begin = 37 * group.rank() / tp;
      const std::int64_t end = 37 * (group.rank() + 1) / tp;
      const at::Tensor part =
          token_divergences(h, {other}, {head.narrow(0, begin, end - begin), 37, 4, group});
      EXPECT_LT((part - whole).abs().max().item<double>(), 1e-13) << "tp " << tp;
    });
  }
}

TEST(PromptDivergences, EqualTheModelsOwnSoftmax) {
  ModelConfig config = tiny_config();
  config.logit_soft_cap = 3;
  const World world(config);
  const std::vector<PromptTokens> prompts = {
      {{1, 5, 9, 3}, "p:1"}, {{4}, "p:2"}, {{1, 5, 9, 3, 8, 8, 7}, "p:3"}};
  const auto found = prompt_divergences(world.groups_of(2), prompts, world.vectors,
                                        {kSettings, SteeredPositions::kAll});
  for (std::size_t s = 0; s < kSettings.size(); ++s) {
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      const std::vector<std::int64_t> ids(prompts[p].ids.begin(), prompts[p].ids.end());
      const at::Tensor own = naive_log_probs(config, world.weights, ids, {});
      const at::Tensor steered = naive_log_probs(
          config, world.weights, ids,
          added_by(world.placed, kSettings[s], SteeredPositions::kAll, ids.size(), ids.size()));
      EXPECT_EQ(found[s][p].positions, static_cast<std::int64_t>(ids.size()));
      EXPECT_NEAR(found[s][p].sum, plain_divergence(own, steered).sum().item<double>(), kExact)
          << s << " " << p;
    }
  }
  EXPECT_EQ(found[0][0].sum, 0);
  EXPECT_GT(found[1][0].sum, 1e-3);
}

}  // namespace
}  // namespace bipo
