// Named shapes against the parameter counts that their makers publish; synthetic weights against
// what a model must satisfy.
#include "trainer/model/architecture/shapes.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "trainer/model/sharding/sharding.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {
namespace {

std::int64_t elements(const TensorShape& shape) {
  return shape.rows * std::max<std::int64_t>(1, shape.columns);
}

std::int64_t parameters(const ModelConfig& config) {
  std::int64_t in_blocks = 0;
  for (std::int64_t block = 0; block < config.blocks; ++block) {
    for (const Role role : block_roles(config, block)) {
      in_blocks += elements(full_shape(config, role, block));
    }
  }
  std::int64_t outside = 0;
  for (const Role role : outer_roles(config)) {
    outside += elements(full_shape(config, role, 0));
  }
  return in_blocks + outside;
}

TEST(Shapes, HaveThePublishedNumbersOfParameters) {
  EXPECT_EQ(parameters(read_shape("llama-2-7b")), 6738415616);
  EXPECT_EQ(parameters(read_shape("llama-3.1-8b")), 8030261248);
  EXPECT_EQ(parameters(read_shape("llama-3.1-70b")), 70553706496);
  EXPECT_EQ(parameters(read_shape("gemma-4-31b")), 30697345340);
  EXPECT_EQ(parameters(read_shape("smollm2-135m")), 134515008);
  EXPECT_EQ(parameters(read_shape("gemma-7b")), 8537680896);
  EXPECT_EQ(parameters(read_shape("gemma-3-12b")), 11766034176);
  EXPECT_EQ(parameters(read_shape("ministral-3-8b")), 8489553920);
  EXPECT_EQ(parameters(read_shape("seed-oss-36b")), 36151104512);
  EXPECT_EQ(parameters(read_shape("olmo-2-7b")), 7298617344);
  EXPECT_EQ(parameters(read_shape("olmo-3-7b")), 7298011136);
  EXPECT_EQ(parameters(read_shape("exaone-4-1.2b")), 1279391488);
  EXPECT_EQ(parameters(read_shape("granite-3.3-8b")), 8170864640);
  EXPECT_EQ(parameters(read_shape("glm-4-9b")), 9400279040);
  EXPECT_EQ(parameters(read_shape("ernie-4.5-0.3b")), 360748032);
  EXPECT_EQ(parameters(read_shape("qwen-3.5-9b")), 8953803264);
  EXPECT_EQ(parameters(read_shape("pythia-6.9b")), 6857302016);
  EXPECT_EQ(parameters(read_shape("phi-2")), 2779683840);
  EXPECT_EQ(parameters(read_shape("starcoder2-7b")), 7173923840);
}

TEST(Shapes, DifferWhereTheirModelsDo) {
  const RotaryEmbedding plain = read_shape("llama-2-7b").rotary.front();
  EXPECT_TRUE(std::holds_alternative<std::monostate>(plain.scaling));
  EXPECT_EQ(plain.theta, 10000);
  const RotaryEmbedding scaled = read_shape("llama-3.1-8b").rotary.front();
  EXPECT_EQ(std::get<Llama3RopeScaling>(scaled.scaling).factor, 8);
  EXPECT_EQ(read_shape("llama-3.1-70b").kv_heads, 8);
  EXPECT_TRUE(read_shape("smollm2-135m").tied_head);
  for (const char* name : kShapeNames) {
    const ModelConfig config = read_shape(name);
    EXPECT_TRUE(config.warnings.empty()) << name;
    EXPECT_EQ(config.heads % config.kv_heads, 0) << name;
    EXPECT_GE(config.context, 2048) << name;
  }
}

TEST(Shapes, GivesBlocksOfTwoKindsTheirOwnHeads) {
  const ModelConfig config = read_shape("gemma-4-31b");
  EXPECT_EQ(config.blocks, 60);
  EXPECT_EQ(config.logit_soft_cap, 30);
  EXPECT_EQ(config.context, 262144);
  for (const std::int64_t block : {4, 5}) {
    const AttentionKind& kind = attention_of(config, block);
    const bool is_global = block == 5;
    EXPECT_EQ(kind.window, is_global ? 0 : 1024);
    EXPECT_EQ(head_size_of(config, kind), is_global ? 512 : 256);
    EXPECT_EQ(kv_heads_of(config, kind), is_global ? 4 : 16);
    EXPECT_EQ(kind.values_are_keys, is_global);
    const RotaryEmbedding& rotary = config.rotary.at(kind.rotary.value());
    EXPECT_EQ(rotary.theta, is_global ? 1000000 : 10000);
    EXPECT_EQ(rotary.rotated, is_global ? 128 : 0);
    EXPECT_EQ(rotary.over_whole_head, is_global);
  }
}

TEST(Shapes, ComeFromAConfigFileToo) {
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / "shapes_test_model";
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100})";
  const ModelConfig config = read_shape((directory / "config.json").string());
  EXPECT_EQ(config.hidden, 64);
  EXPECT_EQ(config.head_size, 16);
  std::filesystem::remove_all(directory);
}

TEST(Shapes, UnknownOnesNameThoseThatExist) {
  testing::expect_parts(testing::error_of<UserError>([] { read_shape("llama-4"); }),
                        {"--shape llama-4", "llama-2-7b, llama-3.1-8b"});
}

class SyntheticWeights : public ::testing::Test {
 protected:
  const ModelConfig config_ = read_shape("smollm2-135m");
  const std::unique_ptr<WeightSource> weights_ = make_synthetic_weights(config_, 3);

  at::Tensor whole(Role role, std::int64_t block) const {
    return weights_->read(role, block, slice_of(config_, plan_shard(config_, 1, 0), role, block));
  }
};

TEST_F(SyntheticWeights, HaveTheShapesOfTheirRoles) {
  EXPECT_EQ(whole(Role::kQuery, 0).sizes(), (std::vector<std::int64_t>{576, 576}));
  EXPECT_EQ(whole(Role::kKey, 29).sizes(), (std::vector<std::int64_t>{192, 576}));
  EXPECT_EQ(whole(Role::kDown, 4).sizes(), (std::vector<std::int64_t>{576, 1536}));
  EXPECT_EQ(whole(Role::kEmbedding, 0).sizes(), (std::vector<std::int64_t>{49152, 576}));
  EXPECT_EQ(whole(Role::kMlpNorm, 4).sizes(), (std::vector<std::int64_t>{576}));
}

TEST_F(SyntheticWeights, AreNormalWithTheUsualScaleAndNormsAreOne) {
  EXPECT_TRUE(whole(Role::kFinalNorm, 0).eq(1).all().item<bool>());
  const at::Tensor gate = whole(Role::kGate, 7).to(at::kDouble);
  const double count = static_cast<double>(gate.numel());
  // Four standard errors of a normal sample's mean and standard deviation.
  EXPECT_NEAR(gate.mean().item<double>(), 0, 4 * 0.02 / std::sqrt(count));
  EXPECT_NEAR(gate.std().item<double>(), 0.02, 4 * 0.02 / std::sqrt(2 * count));
}

TEST_F(SyntheticWeights, ShardsArePartsOfTheWhole) {
  for (const Role role : {Role::kQuery, Role::kAttentionOutput, Role::kDown, Role::kHead}) {
    const Slice slice = slice_of(config_, plan_shard(config_, 2, 1), role, 3);
    const at::Tensor expected = whole(role, 3)
                                    .narrow(0, slice.rows.begin, slice.rows.size())
                                    .narrow(1, slice.columns.begin, slice.columns.size());
    EXPECT_TRUE(at::equal(weights_->read(role, 3, slice), expected)) << static_cast<int>(role);
  }
}

TEST_F(SyntheticWeights, DifferByRoleBlockAndSeed) {
  const at::Tensor gate = whole(Role::kGate, 0);
  EXPECT_FALSE(at::equal(gate, whole(Role::kUp, 0)));
  EXPECT_FALSE(at::equal(gate, whole(Role::kGate, 1)));
  EXPECT_TRUE(at::equal(gate, whole(Role::kGate, 0)));
  const auto other = make_synthetic_weights(config_, 4);
  EXPECT_NE(other->fingerprint(), weights_->fingerprint());
  const Slice slice = slice_of(config_, plan_shard(config_, 1, 0), Role::kGate, 0);
  EXPECT_FALSE(at::equal(gate, other->read(Role::kGate, 0, slice)));
}

}  // namespace
}  // namespace bipo
