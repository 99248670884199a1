// Made-up weights of any shape, for measuring speed without a model's files.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>

#include "collectives/foundation/content_hash.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {
namespace {

constexpr double kScale = 0.02;

// The number of windows.  A prime, so that consecutive rows, one stride apart, use every window
// before they use the first again.
constexpr std::int64_t kWindows = 4194301;
constexpr std::int64_t kStride = 1000003;

class SyntheticWeights final : public WeightSource {
 public:
  SyntheticWeights(const ModelConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {
    std::int64_t longest_row = std::max(config.hidden, config.intermediate);
    for (const AttentionKind& kind : config.attention_kinds) {
      longest_row = std::max(longest_row, config.heads * head_size_of(config, kind));
    }
    if (config.delta_net) {
      longest_row =
          std::max(longest_row, config.delta_net->value_heads * config.delta_net->value_size);
    }
    auto generator = at::detail::createCPUGenerator(seed);
    values_ = at::empty({kWindows + longest_row}, at::kFloat)
                  .normal_(0, kScale, generator)
                  .to(at::kBFloat16);
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    if (full_shape(config_, role, block).is_vector()) {
      return at::ones({slice.rows.size()}, at::kBFloat16);
    }
    const std::int64_t first_window = window_of_first_row(role, block);
    const at::Tensor result = at::empty({slice.rows.size(), slice.columns.size()}, at::kBFloat16);
    const auto* from = values_.const_data_ptr<at::BFloat16>();
    auto* to = result.mutable_data_ptr<at::BFloat16>();
    for (std::int64_t row = slice.rows.begin; row < slice.rows.end; ++row) {
      const std::int64_t window = (first_window + row * kStride) % kWindows;
      to = std::copy_n(from + window + slice.columns.begin, slice.columns.size(), to);
    }
    return result;
  }

  std::string place(Role, std::int64_t) const override { return "made-up weights"; }

  std::uint64_t fingerprint() const override {
    ContentHash hash;
    hash.add(fmt::format("synthetic {} {} {} {} {} {} {} {}", seed_, config_.hidden, config_.blocks,
                         config_.heads, config_.kv_heads, config_.head_size, config_.intermediate,
                         config_.vocabulary));
    return hash.value();
  }

 private:
  std::int64_t window_of_first_row(Role role, std::int64_t block) const {
    ContentHash hash;
    hash.add(fmt::format("{} {}", static_cast<int>(role), block));
    return static_cast<std::int64_t>(hash.value() % kWindows);
  }

  ModelConfig config_;
  std::uint64_t seed_;
  at::Tensor values_;
};

}  // namespace

std::unique_ptr<WeightSource> make_synthetic_weights(const ModelConfig& config,
                                                     std::uint64_t seed) {
  return std::make_unique<SyntheticWeights>(config, seed);
}

}  // namespace bipo
