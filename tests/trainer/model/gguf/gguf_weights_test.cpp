// Configuration and weights of a small Llama in a GGUF file: what is read, and what is refused.
#include "trainer/model/gguf/gguf_model.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/gguf_bytes.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {
namespace {

using testing::encoded;
using testing::GgufBytes;
using testing::kTensorF16;
using testing::kTensorF32;

constexpr std::int64_t kHidden = 12;
constexpr std::int64_t kHeads = 3;
constexpr std::int64_t kKvHeads = 1;
constexpr std::int64_t kHeadSize = 6;
constexpr std::int64_t kIntermediate = 10;
constexpr std::int64_t kVocabulary = 7;

// Element (row, column) is 100 row + column, so that every element tells where it came from.
std::string numbered(std::int64_t rows, std::int64_t columns) {
  std::string values;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      values += encoded(static_cast<float>(100 * row + column));
    }
  }
  return values;
}

struct Part {
  std::string name;
  std::int64_t rows;
  std::int64_t columns;  // 0 for norms
};

std::vector<Part> parts() {
  return {{"token_embd.weight", kVocabulary, kHidden},
          {"output_norm.weight", kHidden, 0},
          {"output.weight", kVocabulary, kHidden},
          {"blk.0.attn_norm.weight", kHidden, 0},
          {"blk.0.attn_q.weight", kHeads * kHeadSize, kHidden},
          {"blk.0.attn_k.weight", kKvHeads * kHeadSize, kHidden},
          {"blk.0.attn_v.weight", kKvHeads * kHeadSize, kHidden},
          {"blk.0.attn_output.weight", kHidden, kHeads * kHeadSize},
          {"blk.0.ffn_norm.weight", kHidden, 0},
          {"blk.0.ffn_gate.weight", kIntermediate, kHidden},
          {"blk.0.ffn_up.weight", kIntermediate, kHidden},
          {"blk.0.ffn_down.weight", kHidden, kIntermediate}};
}

struct SmallModel {
  std::string architecture = "llama";
  std::string left_out_key = "";
  std::string left_out_tensor = "";
  std::function<void(GgufBytes&)> more = [](GgufBytes&) {};

  GgufBytes build() const {
    GgufBytes file;
    file.add_text("general.architecture", architecture);
    const auto size = [&](const std::string& key, std::int64_t value) {
      if (key != left_out_key) {
        file.add_size("llama." + key, static_cast<std::uint32_t>(value));
      }
    };
    size("block_count", 1);
    size("context_length", 50);
    size("embedding_length", kHidden);
    size("feed_forward_length", kIntermediate);
    size("attention.head_count", kHeads);
    size("attention.head_count_kv", kKvHeads);
    size("attention.key_length", kHeadSize);
    if (left_out_key != "attention.layer_norm_rms_epsilon") {
      file.add_float("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    }
    for (const Part& part : parts()) {
      if (part.name != left_out_tensor) {
        add(file, part);
      }
    }
    more(file);
    return file;
  }

 private:
  static void add(GgufBytes& file, const Part& part) {
    const auto rows = static_cast<std::uint64_t>(part.rows);
    const auto columns = static_cast<std::uint64_t>(part.columns);
    if (columns == 0) {
      file.add_tensor(part.name, {rows}, kTensorF32, numbered(1, part.rows));
    } else {
      file.add_tensor(part.name, {columns, rows}, kTensorF32, numbered(part.rows, part.columns));
    }
  }
};

class GgufWeights : public ::testing::Test {
 protected:
  ~GgufWeights() override { std::filesystem::remove(path_); }

  ModelFiles open(const SmallModel& model) {
    const std::string bytes = model.build().build();
    std::ofstream(path_, std::ios::binary) << bytes;
    return open_model(path_);
  }

  std::string refusal(const SmallModel& model) {
    return testing::error_of<UserError>([&] { open(model); });
  }

  static at::Tensor read(const ModelFiles& model, Role role, std::int64_t tp = 1,
                         std::int64_t rank = 0) {
    return model.weights->read(role, 0,
                               slice_of(model.config, plan_shard(model.config, tp, rank), role, 0));
  }

  const std::filesystem::path path_ =
      std::filesystem::path(::testing::TempDir()) /
      (std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + ".gguf");
};

TEST_F(GgufWeights, ConfigurationComesFromMetadataAndTensors) {
  const ModelConfig config = open({}).config;
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.hidden, kHidden);
  EXPECT_EQ(config.blocks, 1);
  EXPECT_EQ(config.heads, kHeads);
  EXPECT_EQ(config.kv_heads, kKvHeads);
  EXPECT_EQ(config.head_size, kHeadSize);
  EXPECT_EQ(config.intermediate, kIntermediate);
  EXPECT_EQ(config.vocabulary, kVocabulary);
  EXPECT_EQ(config.context, 50);
  EXPECT_EQ(config.norm_epsilon, 1e-5);
  EXPECT_EQ(config.rotary.front().theta, 10000);
  EXPECT_TRUE(config.rotary.front().divisors.empty());
  EXPECT_FALSE(config.tied_head);
  EXPECT_EQ(read_config(path_).hidden, kHidden);
}

TEST_F(GgufWeights, WithoutAnOutputTensorTheHeadIsTied) {
  EXPECT_TRUE(open({.left_out_tensor = "output.weight"}).config.tied_head);
}

// Rows 0..5 of a head of 6 are rows 0, 2, 4, 1, 3, 5 of the file's.
TEST_F(GgufWeights, QueryAndKeyRowsGetHalfAHeadApart) {
  const ModelFiles model = open({});
  const at::Tensor in_head = at::tensor({0, 2, 4, 1, 3, 5}, at::kFloat) * 100;
  EXPECT_TRUE(at::equal(read(model, Role::kKey).select(1, 0), in_head));
  const at::Tensor query = read(model, Role::kQuery);
  for (int head = 0; head < kHeads; ++head) {
    EXPECT_TRUE(at::equal(query.select(1, 11).narrow(0, head * 6, 6), in_head + 600 * head + 11));
  }
  EXPECT_TRUE(
      at::equal(read(model, Role::kValue).select(1, 0), at::arange(0, 600, 100, at::kFloat)));
  // The third of three ranks has the last query head.
  EXPECT_TRUE(at::equal(read(model, Role::kQuery, 3, 2).select(1, 0), in_head + 1200));
}

TEST_F(GgufWeights, BiasesAreFoundAndTurnedLikeTheirRows) {
  const auto biases = [](GgufBytes& file) {
    file.add_tensor("blk.0.attn_q.bias", {18}, kTensorF32, numbered(1, 18));
    file.add_tensor("blk.0.attn_k.bias", {6}, kTensorF32, numbered(1, 6));
    file.add_tensor("blk.0.attn_v.bias", {6}, kTensorF32, numbered(1, 6));
  };
  const ModelFiles model = open({.more = biases});
  EXPECT_TRUE(model.config.query_key_value_bias);
  EXPECT_FALSE(model.config.attention_output_bias);
  EXPECT_TRUE(at::equal(read(model, Role::kKeyBias), at::tensor({0, 2, 4, 1, 3, 5}, at::kFloat)));
  EXPECT_TRUE(at::equal(read(model, Role::kQueryBias, 3, 2),
                        at::tensor({12, 14, 16, 13, 15, 17}, at::kFloat)));
  EXPECT_TRUE(at::equal(read(model, Role::kValueBias), at::arange(6, at::kFloat)));
  const auto output = [](GgufBytes& file) {
    file.add_tensor("blk.0.attn_output.bias", {kHidden}, kTensorF32, numbered(1, kHidden));
  };
  EXPECT_TRUE(open({.more = output}).config.attention_output_bias);
}

TEST_F(GgufWeights, SlicesAreThePartsAskedFor) {
  const ModelFiles model = open({});
  const at::Tensor output = read(model, Role::kAttentionOutput, 3, 1);
  EXPECT_EQ(output.sizes(), (std::vector<std::int64_t>{kHidden, kHeadSize}));
  EXPECT_EQ(output[2][0].item<float>(), 206);
  const at::Tensor down = read(model, Role::kDown, 3, 2);  // columns 7..9 of 10
  EXPECT_EQ(down.sizes(), (std::vector<std::int64_t>{kHidden, 3}));
  EXPECT_EQ(down[11][0].item<float>(), 1107);
  const at::Tensor head = read(model, Role::kHead, 2, 1);  // rows 4..6 of 7
  EXPECT_EQ(head[0][1].item<float>(), 401);
  EXPECT_TRUE(at::equal(read(model, Role::kMlpNorm), at::arange(kHidden, at::kFloat)));
}

TEST_F(GgufWeights, FingerprintsTellFilesApart) {
  const std::uint64_t one = open({}).fingerprint;
  EXPECT_EQ(open({}).fingerprint, one);
  const auto key = [](GgufBytes& file) { file.add_float("llama.rope.freq_base", 5000); };
  EXPECT_NE(open({.more = key}).fingerprint, one);
  const auto weight = [](GgufBytes& file) { file.data[9] ^= 1; };
  EXPECT_NE(open({.more = weight}).fingerprint, one);
}

TEST_F(GgufWeights, RotaryDivisorsAndLinearScalingMultiply) {
  const auto scaled = [](GgufBytes& file) {
    file.add_text("llama.rope.scaling.type", "linear");
    file.add_float("llama.rope.scaling.factor", 2);
    file.add_tensor("rope_freqs.weight", {3}, kTensorF32,
                    encoded(1.0F) + encoded(2.5F) + encoded(8.0F));
  };
  EXPECT_EQ(open({.more = scaled}).config.rotary.front().divisors, (std::vector<float>{2, 5, 16}));
  const auto old = [](GgufBytes& file) { file.add_float("llama.rope.scale_linear", 4); };
  EXPECT_EQ(open({.more = old}).config.rotary.front().divisors, (std::vector<float>{4, 4, 4}));
  const auto none = [](GgufBytes& file) {
    file.add_text("llama.rope.scaling.type", "none");
    file.add_float("llama.rope.scaling.factor", 2);
  };
  EXPECT_TRUE(open({.more = none}).config.rotary.front().divisors.empty());
}

void add_yarn(GgufBytes& file) {
  file.add_text("llama.rope.scaling.type", "yarn");
  file.add_float("llama.rope.scaling.factor", 4);
  file.add_size("llama.rope.scaling.original_context_length", 20);
}

TEST_F(GgufWeights, YarnScaling) {
  const RotaryEmbedding usual = open({.more = add_yarn}).config.rotary.front();
  const auto* scaling = std::get_if<YarnRopeScaling>(&usual.scaling);
  ASSERT_NE(scaling, nullptr);
  EXPECT_EQ(scaling->factor, 4);
  EXPECT_EQ(scaling->original_context, 20);
  EXPECT_EQ(scaling->fast, 32);
  EXPECT_EQ(scaling->slow, 1);
  EXPECT_TRUE(scaling->whole_dimensions);
  EXPECT_DOUBLE_EQ(usual.factor, 1 + 0.1 * std::log(4));
  const auto special = [](GgufBytes& file) {
    add_yarn(file);
    file.add_float("llama.rope.scaling.yarn_beta_fast", 16);
    file.add_float("llama.rope.scaling.yarn_beta_slow", 2);
    file.add_float("llama.rope.scaling.yarn_ext_factor", 1);
    file.add_float("llama.rope.scaling.attn_factor", 0.5F);
  };
  const RotaryEmbedding other = open({.more = special}).config.rotary.front();
  EXPECT_EQ(std::get<YarnRopeScaling>(other.scaling).fast, 16);
  EXPECT_EQ(std::get<YarnRopeScaling>(other.scaling).slow, 2);
  EXPECT_DOUBLE_EQ(other.factor, 0.5 + 0.05 * std::log(4));
}

TEST_F(GgufWeights, YarnOfOtherMeaningIsRefused) {
  const auto refuses = [&](const char* key, float value) {
    const auto with = [=](GgufBytes& file) {
      add_yarn(file);
      file.add_float(key, value);
    };
    testing::expect_parts(refusal({.more = with}), {key});
  };
  refuses("llama.rope.scaling.yarn_attn_factor", 1);
  refuses("llama.rope.scaling.yarn_ext_factor", 0.5F);
  refuses("llama.rope.scaling.yarn_log_multiplier", 0.1F);
  refuses("llama.rope.freq_base", 1);
  const auto with_divisors = [](GgufBytes& file) {
    add_yarn(file);
    file.add_tensor("rope_freqs.weight", {3}, kTensorF32,
                    encoded(1.0F) + encoded(1.0F) + encoded(1.0F));
  };
  testing::expect_parts(refusal({.more = with_divisors}), {"YaRN", "rope_freqs.weight"});
}

TEST_F(GgufWeights, LongRopeTensorsOfAnotherArchitectureAreRefused) {
  const std::string factors = encoded(1.0F) + encoded(2.0F) + encoded(3.0F);
  const auto one = [&](GgufBytes& file) {
    file.add_tensor("rope_factors_long.weight", {3}, kTensorF32, factors);
  };
  testing::expect_parts(refusal({.more = one}), {"rope_factors_short.weight", "one is missing"});
  const auto both = [&](GgufBytes& file) {
    one(file);
    file.add_tensor("rope_factors_short.weight", {3}, kTensorF32, factors);
  };
  testing::expect_parts(refusal({.more = both}), {"rope_factors_short.weight", "not supported"});
}

TEST_F(GgufWeights, ValuesThatChangeNothingAreAccepted) {
  const auto neutral = [](GgufBytes& file) {
    file.add_float("llama.logit_scale", 1);
    file.add_float("llama.residual_scale", 0);
    file.add_float("llama.embedding_scale", 1);
    file.add_float("llama.attention.scale", 1 / std::sqrt(6.0F));
    file.add_float("llama.final_logit_softcapping", 0);
    file.add_size("llama.attention.sliding_window", 50);  // the context
    file.add_size("llama.expert_shared_count", 0);
    file.add_size("llama.rope.dimension_count_swa", kHeadSize);
    file.add_array("llama.attention.sliding_window_pattern", 7, 1, encoded<std::uint8_t>(0));
  };
  EXPECT_TRUE(open({.more = neutral}).warnings().empty());
}

TEST_F(GgufWeights, WindowsThatAreNotComputedAreRefused) {
  const auto window = [](GgufBytes& f) { f.add_size("llama.attention.sliding_window", 49); };
  testing::expect_parts(refusal({.more = window}), {"llama.attention.sliding_window"});
  const auto pattern = [](GgufBytes& f) {
    f.add_size("llama.attention.sliding_window_pattern", 2);
  };
  testing::expect_parts(refusal({.more = pattern}), {"llama.attention.sliding_window_pattern"});
}

TEST_F(GgufWeights, KeysThatAreNotUsedAreNamed) {
  const auto unused = [](GgufBytes& file) {
    file.add_size("llama.pooling_type", 3);
    file.add_float("qwen2.rope.freq_base", 1e6F);
    file.add_float("general.sampling.penalty_repeat", 1.1F);
  };
  const std::vector<std::string> warnings = open({.more = unused}).warnings();
  ASSERT_EQ(warnings.size(), 3U);
  testing::expect_parts(warnings[0], {path_.string(), "llama.pooling_type"});
  testing::expect_parts(warnings[1], {path_.string(), "qwen2.rope.freq_base", "llama."});
  testing::expect_parts(warnings[2], {path_.string(), "general.sampling.penalty_repeat"});
}

TEST_F(GgufWeights, AVocabularyAloneIsNoModel) {
  SmallModel model;
  model.more = [](GgufBytes& file) {
    file.infos.clear();
    file.data.clear();
  };
  testing::expect_parts(refusal(model), {"holds no tensors", "vocabulary"});
}

TEST_F(GgufWeights, MissingTensorsAreAllNamed) {
  SmallModel model;
  model.left_out_tensor = "blk.0.ffn_up.weight";
  testing::expect_parts(refusal(model),
                        {path_.string(), "1 tensor is missing", "blk.0.ffn_up.weight"});
  model.more = [](GgufBytes& file) { file.infos.pop_back(); };
  testing::expect_parts(refusal(model),
                        {"2 tensors are missing", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"});
}

TEST_F(GgufWeights, WrongShapesAndTensorsNotKnownAreRefused) {
  const auto transposed = [](GgufBytes& file) {
    file.add_tensor("blk.0.ffn_up.weight", {kIntermediate, kHidden}, kTensorF32,
                    numbered(kHidden, kIntermediate));
  };
  testing::expect_parts(refusal({.left_out_tensor = "blk.0.ffn_up.weight", .more = transposed}),
                        {"blk.0.ffn_up.weight", "[12, 10]", "[10, 12]"});
  const auto bias = [](GgufBytes& file) {
    file.add_tensor("blk.0.ffn_up.bias", {10}, kTensorF32, numbered(1, 10));
  };
  testing::expect_parts(refusal({.more = bias}), {"blk.0.ffn_up.bias", "not known"});
}

TEST_F(GgufWeights, MissingAndMalformedKeysAreRefused) {
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    testing::expect_parts(refusal({.left_out_key = key}),
                          {std::string("metadata llama.") + key + " is missing"});
  }
  const auto with = [&](std::uint32_t value) {
    return [=](GgufBytes& file) { file.add_size("llama.block_count", value); };
  };
  for (const std::uint32_t value : {0U, 1U << 25, ~0U}) {
    testing::expect_parts(refusal({.left_out_key = "block_count", .more = with(value)}),
                          {"llama.block_count must be one integer from 1"});
  }
  testing::expect_parts(refusal({.left_out_key = "block_count", .more = with(1000)}),
                        {"llama.block_count is 1000, but there are 12 tensors"});
  const auto per_block = [](GgufBytes& file) {
    file.add_array("llama.attention.head_count", 4, 1, encoded<std::uint32_t>(3));
  };
  testing::expect_parts(refusal({.left_out_key = "attention.head_count", .more = per_block}),
                        {"llama.attention.head_count must be one integer"});
  const auto heads = [](GgufBytes& file) { file.add_size("llama.attention.head_count_kv", 2); };
  testing::expect_parts(refusal({.left_out_key = "attention.head_count_kv", .more = heads}),
                        {"not a multiple of llama.attention.head_count_kv 2"});
}

TEST_F(GgufWeights, WhatChangesTheMathematicsIsRefused) {
  testing::expect_parts(refusal({.architecture = "mpt"}),
                        {"general.architecture \"mpt\"", "supported: llama"});
  const auto refuses = [&](const std::function<void(GgufBytes&)>& more, const char* says) {
    testing::expect_parts(refusal({.more = more}), {says});
  };
  refuses([](GgufBytes& f) { f.add_text("general.type", "adapter"); }, "is an adapter");
  refuses([](GgufBytes& f) { f.add_text("general.type", "mmproj"); }, "language model");
  refuses([](GgufBytes& f) { f.add_text("general.type", "imatrix"); }, "general.type \"imatrix\"");
  refuses([](GgufBytes& f) { f.add_size("general.quantization_version", 1); },
          "general.quantization_version");
  refuses([](GgufBytes& f) { f.add_size("llama.rope.dimension_count", 4); },
          "llama.rope.dimension_count");
  refuses([](GgufBytes& f) { f.add_text("llama.rope.scaling.type", "longrope"); },
          "llama.rope.scaling.type");
  refuses([](GgufBytes& f) { f.add_float("llama.rope.scaling.attn_factor", 1.5F); },
          "llama.rope.scaling.attn_factor");
  refuses([](GgufBytes& f) { f.add_float("llama.rope.scaling.factor", -1); },
          "llama.rope.scaling.factor");
  refuses([](GgufBytes& f) { f.add_size("llama.expert_count", 8); }, "llama.expert_count");
  refuses([](GgufBytes& f) { f.add_float("llama.attention.scale", 1); }, "llama.attention.scale");
  refuses([](GgufBytes& f) { f.add_size("llama.vocab_size", 8); }, "llama.vocab_size");
  refuses([](GgufBytes& f) { f.add_size("llama.never_heard_of", 1); }, "llama.never_heard_of");
  refuses(
      [](GgufBytes& f) {
        f.add_tensor("rope_freqs.weight", {3}, kTensorF32,
                     encoded(1.0F) + encoded(-1.0F) + encoded(1.0F));
      },
      "rope_freqs.weight");
  refuses([](GgufBytes& f) { f.add_tensor("rope_freqs.weight", {3}, kTensorF16, "123456"); },
          "rope_freqs.weight");
}

TEST_F(GgufWeights, PathsThatAreNoModelSayWhatIsTaken) {
  testing::expect_parts(testing::error_of<UserError>([] { open_model("no/such/file.gguf"); }),
                        {"no/such/file.gguf", "directory", "GGUF file"});
  std::ofstream(path_) << "";
  testing::expect_parts(testing::error_of<UserError>([&] { open_model(path_); }), {"cut short"});
}

}  // namespace
}  // namespace bipo
