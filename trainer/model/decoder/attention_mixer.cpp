#include "trainer/model/decoder/attention_mixer.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <utility>

#include "trainer/model/operators/device_attention.hpp"

namespace bipo {
namespace {

// Without tables.
AttentionHeads local_heads(const ModelConfig& config, const ShardPlan& shard,
                           const AttentionKind& kind) {
  AttentionHeads heads;
  heads.head_size = head_size_of(config, kind);
  heads.scale = config.score_scale.value_or(
      1 / std::sqrt(config.query_pre_attention_scalar.value_or(heads.head_size)));
  heads.soft_cap = config.attention_soft_cap;
  const Range kv_heads = kv_part(config, shard, kind);
  heads.kv_heads = kv_heads.size();
  const std::int64_t group = config.heads / kv_heads_of(config, kind);
  for (std::int64_t head = shard.heads.begin; head < shard.heads.end; ++head) {
    heads.kv_head_of_query.push_back(head / group - kv_heads.begin);
  }
  return heads;
}

SharedHeads shared_heads(AttentionHeads heads, bool narrow, at::TensorOptions residual) {
  heads.narrow = narrow;
  set_head_tables(heads, residual);
  return std::make_shared<const AttentionHeads>(std::move(heads));
}

// Returns the weight of some of the product's columns.
FrozenWeight columns_of(const FrozenWeight& weight, Range columns) {
  return {weight.matrix.narrow(0, columns.begin, columns.size()), weight.rounds_inputs};
}

// Returns the columns of the keys that this rank counts in sums over all heads: ranks may share a
// head, which the one with its first query head counts.
Range keys_to_count(const ModelConfig& config, const ShardPlan& shard, const AttentionKind& kind) {
  const std::int64_t group = config.heads / kv_heads_of(config, kind);
  const std::int64_t first = (shard.heads.begin + group - 1) / group;
  const Range kv_heads = kv_part(config, shard, kind);
  const std::int64_t head_size = head_size_of(config, kind);
  return {(first - kv_heads.begin) * head_size, kv_heads.size() * head_size};
}

}  // namespace

AttentionMixer::AttentionMixer(const ModelConfig& config, const ShardPlan& shard, std::size_t kind,
                               const BlockOperators& operators, at::TensorOptions residual)
    : config_(config),
      kind_(kind),
      operators_(operators),
      residual_(residual),
      heads_(shared_heads(local_heads(config, shard, config.attention_kinds.at(kind)),
                          operators.product_type() == at::kBFloat16, residual)),
      norm_together_(config.query_key_norms == QueryKeyNorms::kOfAllHeads),
      counted_keys_(keys_to_count(config, shard, config.attention_kinds.at(kind))) {
}

bool AttentionMixer::runs_flash(const ModelConfig& config, const ShardPlan& shard, std::size_t kind,
                                at::ScalarType product_type, at::Device device) {
  const AttentionKind& attention = config.attention_kinds.at(kind);
  return !attention.is_recurrent &&
         runs_flash_attention(local_heads(config, shard, attention), product_type, device);
}

std::string AttentionMixer::flash_obstacle(const ModelConfig& config, const ShardPlan& shard,
                                           std::size_t kind, std::int64_t largest_head) {
  return bipo::flash_obstacle(local_heads(config, shard, config.attention_kinds.at(kind)),
                              largest_head);
}

// Whether biases, norms and factors of heads are part of the kernel that turns them: where a norm
// is of numbers that this rank has.
bool AttentionMixer::fuses_heads(const at::Tensor& x) const {
  return runs_compiled(x) &&
         (!norm_together_ || (operators_.has_all_heads() && !config_.value_norms));
}

HeadTransforms AttentionMixer::head_operands(const BlockWeights& block,
                                             const QuerySet& rows) const {
  return {block.qkv_bias,   block.query_norm,
          block.key_norm,   block.value_norm,
          rows.query_scale, config_.norm_epsilon,
          norm_together_,   config_.attention_kinds[kind_].values_are_keys};
}

at::Tensor AttentionMixer::run(const BlockWeights& block, const at::Tensor& h,
                               const SequenceLayout& layout) const {
  const SharedQueries& rows = layout.kinds[kind_].all;
  const at::Tensor x = operators_.product_input(h, block.attention_norm);
  if (fuses_heads(h)) {
    const at::Tensor attended =
        self_attention(frozen_linear(x, block.qkv), heads_, rows, head_operands(block, *rows));
    return add_attention(block, h, gated(block, attended, x));
  }
  const at::Tensor qkv = project_heads(block, x, {0, block.qkv.matrix.size(0)});
  const bool is_plain = !config_.attention_kinds[kind_].values_are_keys &&
                        !block.query_norm.defined() && !rows->query_scale.defined();
  if (is_plain) {
    return add_attention(block, h, gated(block, self_attention(qkv, heads_, rows), x));
  }
  const at::Tensor q = qkv.narrow(1, 0, heads_->query_width());
  const at::Tensor kv = qkv.narrow(1, heads_->query_width(), qkv.size(1) - heads_->query_width());
  // Without norms the latter are columns of qkv.
  const at::Tensor attended = attention(
      queries(block, q, *rows), keys_and_values(block, kv).contiguous(), heads_, rows, rows);
  return add_attention(block, h, gated(block, attended, x));
}

at::Tensor AttentionMixer::run_to_answers(const BlockWeights& block, const at::Tensor& h,
                                          const SequenceLayout& layout) const {
  const AttentionLayout& rows = layout.kinds[kind_];
  const at::Tensor x = operators_.product_input(h, block.attention_norm);
  const at::Tensor of_answers = x.index_select(0, layout.answer_rows);
  accept_any_gradient(of_answers);
  if (fuses_heads(h)) {
    const at::Tensor attended = attention(
        frozen_linear(of_answers, columns_of(block.qkv, {0, heads_->query_width()})),
        frozen_linear(x, columns_of(block.qkv, {heads_->query_width(), block.qkv.matrix.size(0)})),
        heads_, rows.answers, rows.all, head_operands(block, *rows.answers));
    return add_attention(block, h.index_select(0, layout.answer_rows),
                         gated(block, attended, of_answers));
  }
  const at::Tensor q = project_heads(block, of_answers, {0, heads_->query_width()});
  const at::Tensor kv = project_heads(block, x, {heads_->query_width(), block.qkv.matrix.size(0)});
  const at::Tensor attended = attention(queries(block, q, *rows.answers),
                                        keys_and_values(block, kv), heads_, rows.answers, rows.all);
  return add_attention(block, h.index_select(0, layout.answer_rows),
                       gated(block, attended, of_answers));
}

at::Tensor AttentionMixer::run_cached(const BlockWeights& block, const at::Tensor& h,
                                      const CachedLayout& layout, const BlockCache& cache) const {
  const at::Tensor x = operators_.product_input(h, block.attention_norm);
  const auto columns = [&](const at::Tensor& qkv) {
    const std::int64_t width = heads_->query_width();
    return std::pair(qkv.narrow(1, 0, width), qkv.narrow(1, width, qkv.size(1) - width));
  };
  const auto attended_rows = [&] {
    if (fuses_heads(h)) {
      const auto [q, kv] = columns(frozen_linear(x, block.qkv));
      return cached_attention(q, kv, *heads_, layout.kinds[kind_], layout.places, cache.rows,
                              head_operands(block, layout.kinds[kind_]));
    }
    const auto [q, kv] = columns(project_heads(block, x, {0, block.qkv.matrix.size(0)}));
    return cached_attention(queries(block, q, layout.kinds[kind_]), keys_and_values(block, kv),
                            *heads_, layout.kinds[kind_], layout.places, cache.rows);
  };
  const at::Tensor attended = attended_rows();
  const bool has_gates = block.query_gate.matrix.defined();
  return add_attention(
      block, h,
      has_gates ? gated_row_by_row(attended, frozen_linear(x, block.query_gate)) : attended);
}

BlockCache AttentionMixer::make_cache(std::int64_t rows, std::int64_t /*regions*/) const {
  return {make_kept_rows(*heads_, rows, residual_), {}};
}

// Returns the given columns of the queries, keys and values [n, (H + 2 Hkv) K] of x [n, D].
at::Tensor AttentionMixer::project_heads(const BlockWeights& block, const at::Tensor& x,
                                         Range columns) const {
  const at::Tensor heads = frozen_linear(x, columns_of(block.qkv, columns));
  return block.qkv_bias.defined() ? heads + block.qkv_bias.narrow(0, columns.begin, columns.size())
                                  : heads;
}

// Norms every head of x [n, heads K] by itself, where there is a norm.
at::Tensor AttentionMixer::normed_heads(const at::Tensor& x, const at::Tensor& norm) const {
  if (!norm.defined()) {
    return x;
  }
  return rms_norm(x.reshape({-1, norm.size(0)}), norm, config_.norm_epsilon).view(x.sizes());
}

// Returns the queries x [n, H K] as attention takes them, before rotation.
at::Tensor AttentionMixer::queries(const BlockWeights& block, const at::Tensor& x,
                                   const QuerySet& rows) const {
  const at::Tensor normed = norm_together_
                                ? operators_.normed_together(x, block.query_norm, {0, x.size(1)},
                                                             config_.heads * heads_->head_size)
                                : normed_heads(x, block.query_norm);
  return rows.query_scale.defined() ? normed * rows.query_scale : normed;
}

// Returns keys and values [n, 2 Hkv K], each normed where there is a norm, from their products kv
// [n, 2 Hkv K], or [n, Hkv K] where one product is both.
at::Tensor AttentionMixer::keys_and_values(const BlockWeights& block, const at::Tensor& kv) const {
  const bool is_shared = config_.attention_kinds[kind_].values_are_keys;
  if (!is_shared && !block.key_norm.defined() && !block.value_norm.defined()) {
    return kv;
  }
  const std::int64_t width = heads_->kv_heads * heads_->head_size;
  const at::Tensor keys = kv.narrow(1, 0, width);
  const at::Tensor values = is_shared ? keys : kv.narrow(1, width, width);
  const AttentionKind& kind = config_.attention_kinds[kind_];
  const at::Tensor normed =
      norm_together_ ? operators_.normed_together(keys, block.key_norm, counted_keys_,
                                                  kv_heads_of(config_, kind) * heads_->head_size)
                     : normed_heads(keys, block.key_norm);
  return at::cat({normed, normed_heads(values, block.value_norm)}, 1);
}

// `x`: the inputs of the rows whose queries were `attended`.
at::Tensor AttentionMixer::gated(const BlockWeights& block, const at::Tensor& attended,
                                 const at::Tensor& x) const {
  return block.query_gate.matrix.defined()
             ? attended * at::sigmoid(frozen_linear(x, block.query_gate))
             : attended;
}

at::Tensor AttentionMixer::add_attention(const BlockWeights& block, const at::Tensor& residual,
                                         const at::Tensor& attended) const {
  return operators_.project_onto(residual, attended, block.attention_output,
                                 block.attention_output_bias, block.attention_output_norm);
}

}  // namespace bipo
