// The fused attention against its composition of tensor operations in float64, also where a caller
// drops the layout before the backward pass.
#include "trainer/model/operators/attention.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "tests/support/tiny_model.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {
namespace {

using testing::RandomWeights;
using testing::tiny_config;

// A prompt of three rows and two answers to it, one row of each of which predicts.
const std::vector<std::int64_t> kPositions = {0, 1, 2, 3, 4, 3, 4, 5};
const std::vector<SequencePart> kParts = {{{0, 3}, {}}, {{3, 5}, {{0, 3}}}, {{5, 8}, {{0, 3}}}};
const std::vector<std::int64_t> kAnswerRows = {3, 6};

struct Call {
  SharedHeads heads;
  AttentionLayout layout;
};

Call make_call(at::ScalarType type) {
  const ModelConfig config = tiny_config();
  const auto heads = std::make_shared<AttentionHeads>();
  heads->head_size = config.head_size;
  heads->kv_head_of_query = {0, 0, 0, 1, 1, 1};
  heads->kv_heads = config.kv_heads;
  heads->scale = 0.5;
  heads->soft_cap = 2;
  return {
      heads,
      LayoutBuilder(config, type, at::kCPU).packed(kPositions, kParts, kAnswerRows).kinds.front()};
}

at::Tensor random_columns(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  at::manual_seed(seed);
  return at::randn({rows, columns}, at::kDouble);
}

at::Tensor upstream_of(const at::Tensor& value) {
  return at::arange(value.numel(), at::kDouble).sin().view(value.sizes()).to(value.scalar_type());
}

// The gradient of queries, keys and values of all rows; `dropped`: the caller keeps neither heads
// nor layout until the backward pass.
at::Tensor self_gradient(at::ScalarType type, bool dropped) {
  const at::Tensor qkv = random_columns(8, (6 + 2 * 2) * 4, 1).to(type).set_requires_grad(true);
  Call call = make_call(type);
  const std::weak_ptr<const AttentionHeads> heads = call.heads;
  const std::weak_ptr<const QuerySet> rows = call.layout.all;
  at::Tensor value = self_attention(qkv, call.heads, call.layout.all);
  if (dropped) {
    call = {};
    EXPECT_FALSE(heads.expired());
    EXPECT_FALSE(rows.expired());
  }
  value.backward(upstream_of(value));
  value.reset();
  call = {};
  EXPECT_TRUE(heads.expired()) << "the graph is gone";
  EXPECT_TRUE(rows.expired());
  return qkv.grad();
}

// The same for the rows that predict, which attend to all rows.
at::Tensor answer_gradient(at::ScalarType type, bool dropped) {
  const at::Tensor q = random_columns(2, 6 * 4, 2).to(type).set_requires_grad(true);
  const at::Tensor kv = random_columns(8, 2 * 2 * 4, 3).to(type).set_requires_grad(true);
  Call call = make_call(type);
  const std::weak_ptr<const QuerySet> answers = call.layout.answers;
  const at::Tensor value = attention(q, kv, call.heads, call.layout.answers, call.layout.all);
  if (dropped) {
    call = {};
    EXPECT_FALSE(answers.expired());
  }
  value.backward(upstream_of(value));
  return at::cat({q.grad().flatten(), kv.grad().flatten()});
}

void expect_right_gradients(const at::Tensor& kept, const at::Tensor& dropped,
                            const at::Tensor& exact) {
  EXPECT_TRUE(kept.equal(dropped));
  EXPECT_LT((dropped.to(at::kDouble) - exact).abs().max().item<double>(),
            20 * std::numeric_limits<float>::epsilon() * exact.abs().max().item<double>());
}

TEST(Attention, BackwardPassOwnsHeadsAndLayout) {
  expect_right_gradients(self_gradient(at::kFloat, false), self_gradient(at::kFloat, true),
                         self_gradient(at::kDouble, false));
  expect_right_gradients(answer_gradient(at::kFloat, false), answer_gradient(at::kFloat, true),
                         answer_gradient(at::kDouble, false));
}

// The gradient of the embeddings through all blocks; `dropped`: neither decoder nor layout is left.
at::Tensor decoder_gradient(const RandomWeights& weights, at::ScalarType type, bool dropped) {
  SelfCommunicator self;
  std::optional<Decoder> decoder(std::in_place, tiny_config(), weights, type, at::kCPU, self);
  decoder->load_blocks({0, decoder->config().blocks});
  std::optional<SequenceLayout> layout = decoder->layout(kPositions, kParts, kAnswerRows);
  const at::Tensor h =
      random_columns(8, decoder->config().hidden, 4).to(type).set_requires_grad(true);
  const at::Tensor value = decoder->run_to_answers(h, 0, *layout);
  if (dropped) {
    layout.reset();
    decoder.reset();
  }
  value.backward(upstream_of(value));
  return h.grad();
}

TEST(Attention, GradientsOutliveDecoderAndLayout) {
  const RandomWeights weights(tiny_config());
  expect_right_gradients(decoder_gradient(weights, at::kFloat, false),
                         decoder_gradient(weights, at::kFloat, true),
                         decoder_gradient(weights, at::kDouble, false));
}

}  // namespace
}  // namespace bipo
