#include "trainer/model/decoder/decoder.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "collectives/tensor_parallel.hpp"

namespace bipo {
namespace {

SharedHeads local_heads(const ModelConfig& config, const ShardPlan& shard) {
  auto heads = std::make_shared<AttentionHeads>();
  heads->head_size = config.head_size;
  heads->scale = 1 / std::sqrt(config.query_pre_attention_scalar.value_or(config.head_size));
  heads->soft_cap = config.attention_soft_cap;
  heads->kv_heads = shard.kv_heads.size();
  const std::int64_t group = config.heads / config.kv_heads;
  for (std::int64_t head = shard.heads.begin; head < shard.heads.end; ++head) {
    heads->kv_head_of_query.push_back(head / group - shard.kv_heads.begin);
  }
  return heads;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
                 at::Device device, Communicator& tp)
    : config_(config),
      product_type_(product_type),
      device_(device),
      tp_(tp),
      shard_(plan_shard(config, tp.size(), tp.rank())),
      weights_(config, shard_, source, product_type, device),
      layouts_(config, residual_type_for(product_type), device),
      heads_(local_heads(config, shard_)),
      embedding_scale_(at::scalar_tensor(config.embedding_scale, at::kDouble)
                           .to(product_type)
                           .to(at::kDouble)
                           .item<double>()) {
}

std::size_t Decoder::kind_of(std::int64_t block) const {
  return config_.kind_of_block.empty() ? 0 : config_.kind_of_block[static_cast<std::size_t>(block)];
}

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  const Range rows = shard_.vocabulary;
  const at::Tensor is_local = ids.ge(rows.begin).logical_and_(ids.lt(rows.end));
  const at::Tensor local = at::where(is_local, ids - rows.begin, 0);
  const at::Tensor vectors = weights_.embedding().index_select(0, local).to(residual_type());
  const at::Tensor whole =
      reduce_from_tensor_parallel(at::where(is_local.unsqueeze(1), vectors, 0.0), tp_);
  return embedding_scale_ == 1 ? whole : whole * embedding_scale_;
}

at::Tensor Decoder::run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const BlockWeights& block = weights_.block(i);
    h = mlp(block, attention(block, h, layout.kinds[kind_of(i)]));
  }
  return h;
}

at::Tensor Decoder::run_to_answers(at::Tensor h, std::int64_t first_block,
                                   const SequenceLayout& layout) const {
  const std::int64_t last = config_.blocks - 1;
  if (first_block > last) {
    return h.index_select(0, layout.answer_rows);
  }
  h = run_blocks(h, {first_block, last}, layout);
  const BlockWeights& block = weights_.block(last);
  return mlp(block, answer_attention(block, h, layout.answer_rows, layout.kinds[kind_of(last)]));
}

at::Tensor Decoder::run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                               const KeyValueCache& cache) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const auto kept = static_cast<std::size_t>(i - cache.blocks.begin);
    const BlockWeights& block = weights_.block(i);
    h = mlp(block, cached_attention(block, h, layout.kinds[kind_of(i)], layout.places,
                                    {cache.keys.at(kept), cache.values.at(kept)}));
  }
  return h;
}

at::Tensor Decoder::attention(const BlockWeights& block, const at::Tensor& h,
                              const AttentionLayout& layout) const {
  const at::Tensor x = normed(h, block.attention_norm);
  const at::Tensor qkv = project_heads(block, x, {0, block.qkv.matrix.size(0)});
  if (!block.query_norm.defined()) {
    return add_attention(h, self_attention(qkv, heads_, layout.all), block);
  }
  const at::Tensor q = qkv.narrow(1, 0, query_width());
  const at::Tensor kv = qkv.narrow(1, query_width(), qkv.size(1) - query_width());
  const at::Tensor attended =
      bipo::attention(normed_heads(q, block.query_norm), normed_keys(kv, block.key_norm), heads_,
                      layout.all, layout.all);
  return add_attention(h, attended, block);
}

at::Tensor Decoder::answer_attention(const BlockWeights& block, const at::Tensor& h,
                                     const at::Tensor& answer_rows,
                                     const AttentionLayout& layout) const {
  const at::Tensor x = normed(h, block.attention_norm);
  const at::Tensor q = project_heads(block, x.index_select(0, answer_rows), {0, query_width()});
  const at::Tensor kv = project_heads(block, x, {query_width(), block.qkv.matrix.size(0)});
  const at::Tensor attended =
      bipo::attention(normed_heads(q, block.query_norm), normed_keys(kv, block.key_norm), heads_,
                      layout.answers, layout.all);
  return add_attention(h.index_select(0, answer_rows), attended, block);
}

at::Tensor Decoder::cached_attention(const BlockWeights& block, const at::Tensor& h,
                                     const QuerySet& rows, const at::Tensor& places,
                                     const KeptRows& kept) const {
  const at::Tensor x = normed(h, block.attention_norm);
  const at::Tensor qkv = project_heads(block, x, {0, block.qkv.matrix.size(0)});
  const at::Tensor q = qkv.narrow(1, 0, query_width());
  const at::Tensor kv = qkv.narrow(1, query_width(), qkv.size(1) - query_width());
  const at::Tensor attended =
      bipo::cached_attention(normed_heads(q, block.query_norm), normed_keys(kv, block.key_norm),
                             *heads_, rows, places, kept);
  return add_attention(h, attended, block);
}

at::Tensor Decoder::mlp(const BlockWeights& block, const at::Tensor& h) const {
  const at::Tensor gate_up = frozen_linear(normed(h, block.mlp_norm), block.gate_up);
  return project_onto(h, gated_unit(gate_up, config_.activation), block.down, at::Tensor(),
                      block.mlp_output_norm);
}

at::Tensor Decoder::normed(const at::Tensor& h, const at::Tensor& weight) const {
  return copy_to_tensor_parallel(rms_norm(h, weight, config_.norm_epsilon), tp_);
}

// Returns the given columns of the queries, keys and values [n, (H + 2 Hkv) K] of x [n, D].
at::Tensor Decoder::project_heads(const BlockWeights& block, const at::Tensor& x,
                                  Range columns) const {
  const FrozenWeight weight{block.qkv.matrix.narrow(0, columns.begin, columns.size()),
                            block.qkv.rounds_inputs};
  const at::Tensor heads = frozen_linear(x, weight);
  return block.qkv_bias.defined() ? heads + block.qkv_bias.narrow(0, columns.begin, columns.size())
                                  : heads;
}

// Norms every head of x [n, heads K] by itself, where there is a norm.
at::Tensor Decoder::normed_heads(const at::Tensor& x, const at::Tensor& norm) const {
  if (!norm.defined()) {
    return x;
  }
  return rms_norm(x.reshape({-1, config_.head_size}), norm, config_.norm_epsilon).view(x.sizes());
}

// Norms the keys in kv [n, 2 Hkv K], where there is a norm.
at::Tensor Decoder::normed_keys(const at::Tensor& kv, const at::Tensor& norm) const {
  if (!norm.defined()) {
    return kv;
  }
  const auto halves = kv.chunk(2, 1);
  return at::cat({normed_heads(halves[0], norm), halves[1]}, 1);
}

at::Tensor Decoder::add_attention(const at::Tensor& residual, const at::Tensor& attended,
                                  const BlockWeights& block) const {
  return project_onto(residual, attended, block.attention_output, block.attention_output_bias,
                      block.attention_output_norm);
}

// Returns residual + norm(x W^T + bias), with the product summed over the tp group; bias and norm
// may be undefined.
at::Tensor Decoder::project_onto(const at::Tensor& residual, const at::Tensor& x,
                                 const FrozenWeight& weight, const at::Tensor& bias,
                                 const at::Tensor& norm) const {
  if (tp_.size() == 1 && !bias.defined() && !norm.defined()) {
    return frozen_linear_onto(residual, x, weight);
  }
  at::Tensor sum = reduce_from_tensor_parallel(frozen_linear(x, weight), tp_);
  if (bias.defined()) {
    sum = sum + bias;
  }
  return residual + (norm.defined() ? rms_norm(sum, norm, config_.norm_epsilon) : sum);
}

KeyValueCache Decoder::make_cache(Range blocks, std::int64_t rows) const {
  const auto options = at::TensorOptions().dtype(residual_type()).device(device_);
  KeyValueCache cache{blocks, {}, {}};
  for (std::int64_t i = 0; i < blocks.size(); ++i) {
    for (auto* tensors : {&cache.keys, &cache.values}) {
      tensors->push_back(at::empty({heads_->kv_heads, rows, heads_->head_size}, options));
    }
  }
  return cache;
}

std::uint64_t Decoder::cache_bytes_per_row(const ModelConfig& config, std::int64_t tp,
                                           std::int64_t tp_rank) {
  const std::int64_t heads = plan_shard(config, tp, tp_rank).kv_heads.size();
  return static_cast<std::uint64_t>(2 * heads * config.head_size) * sizeof(float);
}

HeadShard Decoder::head() const {
  return {weights_.head(), config_.vocabulary, config_.logit_soft_cap, tp_};
}

at::Tensor Decoder::next_token_logits(const at::Tensor& h) const {
  return token_logits(normed(h, weights_.final_norm()), head());
}

at::Tensor Decoder::next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                         const at::Tensor& targets) const {
  return token_log_probs(normed(h, weights_.final_norm()), head(), row_of_target, targets);
}

at::Tensor Decoder::next_token_divergences(const at::Tensor& h,
                                           const std::vector<at::Tensor>& others) const {
  std::vector<at::Tensor> normed_others;
  for (const at::Tensor& other : others) {
    normed_others.push_back(normed(other, weights_.final_norm()));
  }
  return token_divergences(normed(h, weights_.final_norm()), normed_others, head());
}

}  // namespace bipo
