// The fused attention against its composition of tensor operations in float64, also where a caller
// drops the layout before the backward pass.
#include "trainer/model/operators/attention.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "collectives/self_communicator.hpp"
#include "tests/support/tiny_model.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/operators/cpu_products.hpp"

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
  set_head_tables(*heads, at::TensorOptions().dtype(type));
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

// Value and gradient of 100 rows, which take three chunks, for heads of size K.
at::Tensor value_and_gradient(at::ScalarType type, std::int64_t head_size) {
  ModelConfig config = tiny_config();
  config.head_size = head_size;
  const auto heads = std::make_shared<AttentionHeads>();
  heads->head_size = head_size;
  heads->kv_head_of_query = {0, 0, 0, 1, 1, 1};
  heads->kv_heads = 2;
  heads->scale = 1 / std::sqrt(static_cast<double>(head_size));
  set_head_tables(*heads, at::TensorOptions().dtype(type));
  std::vector<std::int64_t> positions(100);
  std::iota(positions.begin(), positions.end(), 0);
  const SequenceLayout layout =
      LayoutBuilder(config, type, at::kCPU).packed(positions, {{{0, 100}, {}}}, {99});
  const at::Tensor qkv =
      random_columns(100, (6 + 2 * 2) * head_size, 5).to(type).set_requires_grad(true);
  const at::Tensor value = self_attention(qkv, heads, layout.kinds.front().all);
  value.backward(upstream_of(value));
  return at::cat({value.detach().flatten(), qkv.grad().flatten()}).to(at::kDouble);
}

TEST(Attention, HeadsMayBeLarge) {
  for (const std::int64_t head_size : {64, 256, 512}) {
    const at::Tensor exact = value_and_gradient(at::kDouble, head_size);
    EXPECT_LT((value_and_gradient(at::kFloat, head_size) - exact).abs().max().item<double>(),
              20 * std::numeric_limits<float>::epsilon() * exact.abs().max().item<double>())
        << head_size;
  }
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

// A sequence of 40 tokens in one pass, and the same where its first 17 rows are kept in one place
// of a cache, the others in another, some of them together and the last ones one by one.  No place
// begins where a strip of keys begins.
TEST(KeptRows, AttendAsTheWholeSequenceDoes) {
  constexpr std::int64_t kLength = 40;
  constexpr std::int64_t kFirst = 17;
  constexpr std::int64_t kPlaceOfFirst = 30;
  constexpr std::int64_t kPlaceOfOthers = 3;
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const std::int64_t window : {0, 9}) {
      ModelConfig config = tiny_config();
      config.attention_kinds.front().window = window;
      const LayoutBuilder layouts(config, type, at::kCPU);
      AttentionHeads uncapped = *make_call(type).heads;
      uncapped.soft_cap = 0;
      const auto heads = std::make_shared<const AttentionHeads>(uncapped);
      const at::Tensor exact_qkv = random_columns(kLength, (6 + 2 * 2) * 4, 4);
      const at::Tensor qkv = exact_qkv.to(type);
      const auto in_one_pass = [&](at::ScalarType of_type) {
        std::vector<std::int64_t> positions(kLength);
        std::iota(positions.begin(), positions.end(), 0);
        const SequenceLayout layout =
            LayoutBuilder(config, of_type, at::kCPU).packed(positions, {{{0, kLength}, {}}}, {0});
        return self_attention(exact_qkv.to(of_type), heads, layout.kinds.front().all);
      };
      // What other sequences leave, or nobody ever wrote, must not be seen.
      const KeptRows kept = make_kept_rows(*heads, 50, qkv.options());
      kept.keys.fill_(std::numeric_limits<float>::quiet_NaN());
      kept.values.fill_(std::numeric_limits<float>::quiet_NaN());
      std::vector<at::Tensor> results;
      const auto run = [&](std::int64_t begin, std::int64_t end) {
        const bool is_first = end <= kFirst;
        const Range own = is_first ? Range{kPlaceOfFirst, kPlaceOfFirst + end}
                                   : Range{kPlaceOfOthers, kPlaceOfOthers + end - kFirst};
        const std::vector<Range> context =
            is_first ? std::vector<Range>{}
                     : std::vector<Range>{{kPlaceOfFirst, kPlaceOfFirst + kFirst}};
        const CachedLayout layout = layouts.cached({{{0, end - begin}, own, context}});
        const at::Tensor rows = qkv.narrow(0, begin, end - begin);
        results.push_back(cached_attention(rows.narrow(1, 0, 6 * 4), rows.narrow(1, 6 * 4, 4 * 4),
                                           *heads, layout.kinds.front(), layout.places, kept));
      };
      run(0, kFirst);
      run(kFirst, 31);
      for (std::int64_t row = 31; row < kLength; ++row) {
        run(row, row + 1);
      }
      const at::Tensor result = at::cat(results);
      const at::Tensor exact = in_one_pass(at::kDouble);
      EXPECT_LT((result.to(at::kDouble) - exact).abs().max().item<double>(), 1e-5)
          << type << ", window " << window;
      if (type == at::kFloat && multiplies_tiles(at::kFloat)) {
        EXPECT_TRUE(result.equal(in_one_pass(at::kFloat))) << "window " << window;
      }
    }
  }
}

}  // namespace
}  // namespace bipo
