#include "trainer/activation_cache.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "collectives/errors.hpp"
#include "datasets/batch_plan.hpp"
#include "trainer/pair_scores.hpp"

namespace bipo {
namespace {

double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle),
                   values.end());
  const double upper = values[middle];
  if (values.size() % 2 == 1) {
    return upper;
  }
  return (*std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle)) +
          upper) /
         2;
}

}  // namespace

std::uint64_t ActivationCache::bytes_needed(const Decoder& decoder,
                                            const std::vector<TokenPair>& pairs) {
  std::uint64_t tokens = 0;
  for (const TokenPair& pair : pairs) {
    tokens += static_cast<std::uint64_t>(packed_size(pair));
  }
  return tokens * static_cast<std::uint64_t>(decoder.config().hidden) *
         c10::elementSize(decoder.residual_type());
}

ActivationCache::ActivationCache(const Decoder& decoder, std::int64_t layer,
                                 const std::vector<TokenPair>& pairs, std::int64_t group_size,
                                 std::uint64_t budget, const Ranks& ranks, const Progress& progress)
    : decoder_(decoder),
      layer_(layer),
      pairs_(pairs),
      groups_(consecutive_groups(static_cast<std::int64_t>(pairs.size()), group_size)),
      first_token_{0},
      reference_(pairs.size()) {
  for (const TokenPair& pair : pairs) {
    first_token_.push_back(first_token_.back() + packed_size(pair));
  }
  if (bytes_needed(decoder, pairs) <= budget) {
    activations_ =
        at::zeros({first_token_.back(), decoder.config().hidden},
                  at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device()));
  }
  run_pass(ranks, progress);
}

Range ActivationCache::token_range(const std::vector<std::int64_t>& consecutive_pairs) const {
  return {first_token_[static_cast<std::size_t>(consecutive_pairs.front())],
          first_token_[static_cast<std::size_t>(consecutive_pairs.back()) + 1]};
}

void ActivationCache::run_pass(const Ranks& ranks, const Progress& progress) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(groups_.size());
  const std::int64_t replicas = ranks.topology.dp();
  const auto doubles = at::TensorOptions().dtype(at::kDouble).device(decoder_.device());
  const at::Tensor log_probs = at::zeros({static_cast<std::int64_t>(pairs_.size()), 2}, doubles);
  const at::Tensor token_rms = at::zeros({first_token_.back()}, doubles);
  const auto residual = doubles.dtype(decoder_.residual_type());
  for (std::int64_t g = ranks.topology.dp_rank(); g < count; g += replicas) {
    const auto& group = groups_[static_cast<std::size_t>(g)];
    const PackedPairs packed = pack_pairs(pairs_, group, decoder_);
    const at::Tensor hidden = run_prefix(group);
    const Range tokens = token_range(group);
    if (activations_.defined()) {
      activations_.narrow(0, tokens.begin, tokens.size()).copy_(hidden);
    }
    token_rms.narrow(0, tokens.begin, tokens.size())
        .copy_(hidden.to(at::kDouble).square().mean(-1).sqrt());
    // The very path that training takes, at v = 0.
    const Steering unsteered{layer_, at::zeros({packed.tokens()}, residual),
                             at::zeros({decoder_.config().hidden}, residual)};
    const PairScores scores = score_pairs(decoder_, packed, hidden, unsteered);
    std::vector<double> values;
    for (const AnswerLogProbs& answer : scores.answers) {
      values.insert(values.end(), {answer.chosen, answer.rejected});
    }
    log_probs.narrow(0, group.front(), packed.pairs)
        .copy_(at::tensor(values, at::kDouble).view({packed.pairs, 2}));
    progress(std::min(count, g + replicas), count);
  }
  share(ranks, log_probs, token_rms);
}

void ActivationCache::share(const Ranks& ranks, const at::Tensor& log_probs,
                            const at::Tensor& token_rms) {
  // Every element is non-zero on one replica only: the sums are exact in any order.
  ranks.dp->all_reduce(log_probs, ReduceOp::kSum);
  ranks.dp->all_reduce(token_rms, ReduceOp::kSum);
  // The tp ranks' values may differ in the last bits; what is derived from them must not.
  ranks.tp->broadcast(log_probs, 0);
  ranks.tp->broadcast(token_rms, 0);
  if (activations_.defined() && ranks.dp->size() > 1) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const Range tokens = token_range(groups_[g]);
      ranks.dp->broadcast(activations_.narrow(0, tokens.begin, tokens.size()),
                          static_cast<int>(g) % ranks.topology.dp());
    }
  }
  const at::Tensor log_probs_on_host = log_probs.cpu();
  const auto values = log_probs_on_host.accessor<double, 2>();
  for (std::size_t p = 0; p < pairs_.size(); ++p) {
    const auto row = static_cast<std::int64_t>(p);
    reference_[p] = {values[row][0], values[row][1]};
    if (!std::isfinite(reference_[p].chosen) || !std::isfinite(reference_[p].rejected)) {
      throw EnvironmentError(
          fmt::format("{}: the model's own log-probability is not finite (chosen {}, rejected {}); "
                      "if the model overflows, try --dtype fp32",
                      pairs_[p].where, reference_[p].chosen, reference_[p].rejected));
    }
  }
  const at::Tensor rms_on_host = token_rms.cpu();
  const double* rms = rms_on_host.const_data_ptr<double>();
  median_rms_ = median({rms, rms + rms_on_host.numel()});
}

at::Tensor ActivationCache::run_prefix(const std::vector<std::int64_t>& indices) const {
  std::vector<at::Tensor> parts;
  for (const std::int64_t index : indices) {
    parts.push_back(bipo::run_prefix(decoder_, pack_pairs(pairs_, {index}, decoder_), layer_));
  }
  return at::cat(parts);
}

at::Tensor ActivationCache::activations(const std::vector<std::int64_t>& indices) const {
  if (!activations_.defined()) {
    return run_prefix(indices);
  }
  std::vector<at::Tensor> parts;
  for (const std::int64_t index : indices) {
    const Range tokens = token_range({index});
    parts.push_back(activations_.narrow(0, tokens.begin, tokens.size()));
  }
  return at::cat(parts);
}

}  // namespace bipo
