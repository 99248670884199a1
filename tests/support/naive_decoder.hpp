// A Llama decoder as its papers write it, in float64, one sequence at a time: an oracle without
// packing, sharding or caches.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "tests/support/tiny_model.hpp"

namespace bipo::testing {

inline at::Tensor naive_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x / at::sqrt((x * x).mean(-1, true) + epsilon) * weight;
}

// Rotates pair (i, i + K/2) of each head by position * theta^(-2i/K) / divisor i, as complex
// numbers.
inline at::Tensor naive_rotary(const at::Tensor& x, const ModelConfig& config) {
  at::Tensor result = x.clone();
  const double theta = config.rotary.front().theta;
  const std::vector<float>& divisors = config.rotary.front().divisors;
  const auto half = x.size(2) / 2;
  for (std::int64_t t = 0; t < x.size(0); ++t) {
    for (std::int64_t i = 0; i < half; ++i) {
      // The decoder's angles are float32, as transformers' are.
      const float frequency = static_cast<float>(
          1 / std::pow(static_cast<float>(theta),
                       2.0F * static_cast<float>(i) / static_cast<float>(x.size(2))));
      const float divisor = divisors.empty() ? 1.0F : divisors[static_cast<std::size_t>(i)];
      const double angle = static_cast<float>(t) * (frequency / divisor);
      const double c = std::cos(static_cast<float>(angle));
      const double s = std::sin(static_cast<float>(angle));
      for (std::int64_t h = 0; h < x.size(1); ++h) {
        const double a = x[t][h][i].item<double>();
        const double b = x[t][h][i + half].item<double>();
        result[t][h][i] = a * c - b * s;
        result[t][h][i + half] = b * c + a * s;
      }
    }
  }
  return result;
}

// What a gated delta net makes of its block's normed input x [T, D] (Yang et al., arXiv
// 2412.06464): token by token, head by head.
inline at::Tensor naive_delta_net(const at::Tensor& x, const ModelConfig& config,
                                  const RandomWeights& weights, std::int64_t block) {
  const DeltaNetSizes& sizes = *config.delta_net;
  const std::int64_t length = x.size(0);
  const auto product = [&](Role role) { return at::matmul(x, weights.whole(role, block).t()); };
  const auto convolved = [&](Role role, Role taps, std::int64_t size) {
    const at::Tensor columns = product(role);
    const at::Tensor weight = weights.whole(taps, block);
    at::Tensor sum = at::zeros_like(columns);
    for (std::int64_t t = 0; t < length; ++t) {
      for (std::int64_t back = 0; back < std::min(sizes.taps, t + 1); ++back) {
        sum[t] += weight.select(1, sizes.taps - 1 - back) * columns[t - back];
      }
    }
    return (sum / (1 + at::exp(-sum))).view({length, -1, size});
  };
  const at::Tensor q = convolved(Role::kDeltaQuery, Role::kDeltaQueryTaps, sizes.key_size);
  const at::Tensor k = convolved(Role::kDeltaKey, Role::kDeltaKeyTaps, sizes.key_size);
  const at::Tensor v = convolved(Role::kDeltaValue, Role::kDeltaValueTaps, sizes.value_size);
  const at::Tensor step = 1 / (1 + at::exp(-product(Role::kDeltaStep)));
  const at::Tensor decay =
      at::exp(-at::exp(weights.whole(Role::kDeltaDecayScale, block)) *
              at::log(1 + at::exp(product(Role::kDeltaDecay) +
                                  weights.whole(Role::kDeltaDecayBias, block))));
  const at::Tensor gate =
      product(Role::kDeltaGate).view({length, sizes.value_heads, sizes.value_size});
  const auto unit = [](const at::Tensor& y) { return y / at::sqrt((y * y).sum() + 1e-6); };
  at::Tensor result = at::zeros_like(gate);
  for (std::int64_t head = 0; head < sizes.value_heads; ++head) {
    const std::int64_t key_head = head / (sizes.value_heads / sizes.key_heads);
    at::Tensor state = at::zeros({sizes.key_size, sizes.value_size}, at::kDouble);
    for (std::int64_t t = 0; t < length; ++t) {
      const at::Tensor key = unit(k[t][key_head]);
      state = state * decay[t][head];
      state = state + at::outer(key, (v[t][head] - at::matmul(key, state)) * step[t][head]);
      const at::Tensor read =
          at::matmul(unit(q[t][key_head]), state) / std::sqrt(static_cast<double>(sizes.key_size));
      const at::Tensor opening = gate[t][head] / (1 + at::exp(-gate[t][head]));
      result[t][head] =
          naive_norm(read, weights.whole(Role::kDeltaNorm, block), config.norm_epsilon) * opening;
    }
  }
  return at::matmul(result.flatten(1), weights.whole(Role::kDeltaOutput, block).t());
}

// What attention makes of it.
inline at::Tensor naive_attention(const at::Tensor& x, const ModelConfig& config,
                                  const RandomWeights& weights, std::int64_t b) {
  const std::int64_t length = x.size(0);
  const auto heads = [&](Role role, std::int64_t count) {
    return at::matmul(x, weights.whole(role, b).t()).view({length, count, config.head_size});
  };
  const at::Tensor q = naive_rotary(heads(Role::kQuery, config.heads), config);
  const at::Tensor k = naive_rotary(heads(Role::kKey, config.kv_heads), config);
  const at::Tensor v = heads(Role::kValue, config.kv_heads);
  at::Tensor mixed = at::zeros({length, config.heads, config.head_size}, at::kDouble);
  for (std::int64_t head = 0; head < config.heads; ++head) {
    const std::int64_t kv = head / (config.heads / config.kv_heads);
    for (std::int64_t t = 0; t < length; ++t) {
      const at::Tensor scores = at::matmul(k.select(1, kv).narrow(0, 0, t + 1), q[t][head]) /
                                std::sqrt(static_cast<double>(config.head_size));
      mixed[t][head] = at::matmul(at::softmax(scores, 0), v.select(1, kv).narrow(0, 0, t + 1));
    }
  }
  return at::matmul(mixed.flatten(1), weights.whole(Role::kAttentionOutput, b).t());
}

// What takes the place of an MLP's output [T, D], by block.
using NaiveMlpChanges = std::map<std::int64_t, std::function<at::Tensor(const at::Tensor&)>>;

// Logits [T, V] after each token of one unpacked sequence, with added.at(b) put on the output of
// block b: [D] at every position, or [T, D].
inline at::Tensor naive_logits(const ModelConfig& config, const RandomWeights& weights,
                               const std::vector<std::int64_t>& ids,
                               const std::map<std::int64_t, at::Tensor>& added,
                               const NaiveMlpChanges& changes = {}) {
  at::Tensor h = weights.whole(Role::kEmbedding).index_select(0, at::tensor(ids, at::kLong));
  for (std::int64_t b = 0; b < config.blocks; ++b) {
    const auto branch = [&](const at::Tensor& output, Role norm) {
      return config.residual_scale *
             (config.output_norms ? naive_norm(output, weights.whole(norm, b), config.norm_epsilon)
                                  : output);
    };
    const at::Tensor x = naive_norm(h, weights.whole(Role::kAttentionNorm, b), config.norm_epsilon);
    h = h + branch(attention_of(config, b).is_recurrent ? naive_delta_net(x, config, weights, b)
                                                        : naive_attention(x, config, weights, b),
                   Role::kAttentionOutputNorm);
    const at::Tensor y = naive_norm(h, weights.whole(Role::kMlpNorm, b), config.norm_epsilon);
    const at::Tensor gate = at::matmul(y, weights.whole(Role::kGate, b).t());
    const at::Tensor up = at::matmul(y, weights.whole(Role::kUp, b).t());
    const at::Tensor mlp =
        at::matmul(gate / (1 + at::exp(-gate)) * up, weights.whole(Role::kDown, b).t());
    h = h + branch(changes.contains(b) ? changes.at(b)(mlp) : mlp, Role::kMlpOutputNorm);
    if (added.contains(b)) {
      h = h + added.at(b);
    }
  }
  const at::Tensor logits =
      at::matmul(naive_norm(h, weights.whole(Role::kFinalNorm), config.norm_epsilon),
                 weights.whole(config.tied_head ? Role::kEmbedding : Role::kHead).t());
  const double cap = config.logit_soft_cap;
  return cap == 0 ? logits : at::tanh(logits / cap) * cap;
}

// Returns the log-probabilities of each token, given the tokens before it, [T, V].
inline at::Tensor naive_log_probs(const ModelConfig& config, const RandomWeights& weights,
                                  const std::vector<std::int64_t>& ids,
                                  const std::map<std::int64_t, at::Tensor>& added,
                                  const NaiveMlpChanges& changes = {}) {
  return at::log_softmax(naive_logits(config, weights, ids, added, changes), -1);
}

}  // namespace bipo::testing
