// A random Llama decoder in memory, for tests that need no files.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo::testing {

// 3 blocks; 6 query heads share 2 key/value heads; no size is a multiple of another's split.
inline ModelConfig tiny_config() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden = 20;
  config.blocks = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_size = 4;
  config.intermediate = 23;
  config.vocabulary = 37;
  config.context = 64;
  config.norm_epsilon = 1e-5;
  config.rotary.front().theta = 100;
  return config;
}

// The same with a gated delta net in the first and the last block: 6 value heads share 3 key heads.
inline ModelConfig tiny_recurrent_config() {
  ModelConfig config = tiny_config();
  config.kind_of_block = {0, 0, 0};
  set_recurrent_blocks(
      {true, false, true},
      {.key_heads = 3, .value_heads = 6, .key_size = 4, .value_size = 5, .taps = 3}, config);
  return config;
}

// Normal weights, scaled so that activations and logits are of order one; norms' weights are near
// one.
class RandomWeights final : public WeightSource {
 public:
  explicit RandomWeights(const ModelConfig& config, std::uint64_t seed = 7) {
    // Ranks that are threads make their weights at the same time, of one generator.
    static std::mutex generator;
    const std::lock_guard<std::mutex> alone(generator);
    at::manual_seed(seed);
    const auto add = [&](Role role, std::int64_t block) {
      const TensorShape shape = full_shape(config, role, block);
      tensors_[{role, block}] = shape.is_vector()
                                    ? at::randn({shape.rows}, at::kDouble) * 0.1 + 1
                                    : at::randn({shape.rows, shape.columns}, at::kDouble) /
                                          std::sqrt(static_cast<double>(shape.columns));
    };
    add(Role::kEmbedding, 0);
    add(Role::kFinalNorm, 0);
    add(Role::kHead, 0);
    for (std::int64_t block = 0; block < config.blocks; ++block) {
      for (const Role role : block_roles(config, block)) {
        add(role, block);
      }
    }
    for (const Role role : outer_roles(config)) {
      if (!tensors_.contains({role, 0})) {
        add(role, 0);
      }
    }
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor rows = whole(role, block).narrow(0, slice.rows.begin, slice.rows.size());
    return rows.dim() == 1 ? rows.clone()
                           : rows.narrow(1, slice.columns.begin, slice.columns.size()).clone();
  }

  const at::Tensor& whole(Role role, std::int64_t block = 0) const {
    return tensors_.at({role, block});
  }

  std::string place(Role, std::int64_t) const override { return "random weights"; }
  std::uint64_t fingerprint() const override { return 0; }

 private:
  std::map<std::pair<Role, std::int64_t>, at::Tensor> tensors_;
};

// Pairs of different lengths; one answer has a single token; the first and the last have the same
// prompt, that of the third begins with all of the second.
inline std::vector<TokenPair> tiny_pairs() {
  return {{{1, 5, 9, 3}, {7, 8, 2}, {11, 2}, "a:1"},
          {{4, 4}, {20}, {21, 22, 23, 24, 36}, "a:2"},
          {{4, 4, 32, 33, 34}, {6, 5}, {0, 1, 2}, "a:3"},
          {{1, 5, 9, 3}, {3, 4, 5}, {3, 4, 6}, "a:4"}};
}

}  // namespace bipo::testing
