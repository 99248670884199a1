#include "trainer/model/decoder/decoder.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/tensor_parallel.hpp"
#include "trainer/model/operators/attention.hpp"
#include "trainer/model/operators/head.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/rotary_tables.hpp"

namespace bipo {
namespace {

// Log-softmax needs logits better than bfloat16; on the CPU, a product that returns them wants a
// float32 head.
at::ScalarType head_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && device.is_cpu() ? at::kFloat : product_type;
}

// The type that the weights of the blocks are held in.
at::ScalarType block_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && emulates_bfloat16(device) ? at::kFloat : product_type;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const WeightSource& source, at::ScalarType product_type,
                 at::Device device, Communicator& tp)
    : config_(config),
      source_(source),
      product_type_(product_type),
      device_(device),
      tp_(tp),
      shard_(plan_shard(config, tp.size(), tp.rank())),
      layouts_(config, residual_type(), device),
      blocks_(static_cast<std::size_t>(config.blocks)) {
  embedding_scale_ = at::scalar_tensor(config.embedding_scale, at::kDouble)
                         .to(product_type)
                         .to(at::kDouble)
                         .item<double>();
  auto heads = std::make_shared<AttentionHeads>();
  heads->head_size = config.head_size;
  heads->scale = 1 / std::sqrt(config.query_pre_attention_scalar.value_or(config.head_size));
  heads->soft_cap = config.attention_soft_cap;
  heads->kv_heads = shard_.kv_heads.size();
  const std::int64_t group = config.heads / config.kv_heads;
  for (std::int64_t head = shard_.heads.begin; head < shard_.heads.end; ++head) {
    heads->kv_head_of_query.push_back(head / group - shard_.kv_heads.begin);
  }
  heads_ = std::move(heads);
  head_ = read(config.tied_head ? Role::kEmbedding : Role::kHead, 0)
              .to(at::TensorOptions().dtype(head_type(product_type, device)).device(device));
  final_norm_ = read_vector(Role::kFinalNorm, 0);
}

at::Tensor Decoder::read(Role role, std::int64_t block) const {
  return source_.read(role, block, slice_of(config_, shard_, role));
}

at::Tensor Decoder::read_vector(Role role, std::int64_t block) const {
  const at::Tensor vector =
      read(role, block).to(at::TensorOptions().dtype(residual_type()).device(device_));
  return config_.norms_from_one && is_norm(role) ? vector + 1 : vector;
}

// Rows of whole heads, in the order that the rotation expects.
at::Tensor Decoder::read_query_key(Role role, std::int64_t block) const {
  const at::Tensor rows = read(role, block);
  const RotaryEmbedding& rotary = config_.rotary.front();
  if (rotary.rotated == 0 || rotary.rotated == config_.head_size) {
    return rows;
  }
  const at::Tensor order = at::tensor(rotary_order(rotary, config_.head_size), at::kLong);
  const std::int64_t heads = rows.size(0) / config_.head_size;
  return rows.view({heads, config_.head_size, -1}).index_select(1, order).view(rows.sizes());
}

Decoder::Block Decoder::read_block(std::int64_t index) const {
  const auto vector = [&](Role role) { return read_vector(role, index); };
  const auto weight = [&](const at::Tensor& matrix) {
    return make_frozen_weight(matrix, product_type_, device_);
  };
  Block block;
  block.attention_norm = vector(Role::kAttentionNorm);
  block.qkv = weight(at::cat({read_query_key(Role::kQuery, index),
                              read_query_key(Role::kKey, index), read(Role::kValue, index)}));
  block.attention_output = weight(read(Role::kAttentionOutput, index));
  block.mlp_norm = vector(Role::kMlpNorm);
  block.gate_up = weight(at::cat({read(Role::kGate, index), read(Role::kUp, index)}));
  block.down = weight(read(Role::kDown, index));
  if (config_.query_key_value_bias) {
    block.qkv_bias = at::cat({read_query_key(Role::kQueryBias, index),
                              read_query_key(Role::kKeyBias, index), read(Role::kValueBias, index)})
                         .to(at::TensorOptions().dtype(residual_type()).device(device_));
  }
  if (config_.query_key_norms) {
    block.query_norm = vector(Role::kQueryNorm);
    block.key_norm = vector(Role::kKeyNorm);
  }
  if (config_.attention_output_bias) {
    block.attention_output_bias = vector(Role::kAttentionOutputBias);
  }
  if (config_.output_norms) {
    block.attention_output_norm = vector(Role::kAttentionOutputNorm);
    block.mlp_output_norm = vector(Role::kMlpOutputNorm);
  }
  return block;
}

std::vector<at::Tensor> Decoder::Block::tensors() const {
  std::vector<at::Tensor> all = {attention_norm,
                                 qkv.matrix,
                                 qkv_bias,
                                 query_norm,
                                 key_norm,
                                 attention_output.matrix,
                                 attention_output_bias,
                                 attention_output_norm,
                                 mlp_norm,
                                 gate_up.matrix,
                                 down.matrix,
                                 mlp_output_norm};
  std::erase_if(all, [](const at::Tensor& tensor) { return !tensor.defined(); });
  return all;
}

void Decoder::load_blocks(Range blocks) {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    auto& block = blocks_[static_cast<std::size_t>(i)];
    if (!block) {
      block = read_block(i);
    }
  }
}

void Decoder::load_embedding() {
  if (!embedding_.defined()) {
    embedding_ = config_.tied_head
                     ? head_
                     : read(Role::kEmbedding, 0)
                           .to(at::TensorOptions().dtype(product_type_).device(device_));
  }
}

void Decoder::release_blocks(Range blocks) {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    blocks_[static_cast<std::size_t>(i)].reset();
  }
}

void Decoder::release_embedding() {
  embedding_ = at::Tensor();
}

const Decoder::Block& Decoder::block(std::int64_t index) const {
  const auto& block = blocks_.at(static_cast<std::size_t>(index));
  if (!block) {
    throw BugError(fmt::format("block {} is used but not loaded", index));
  }
  return *block;
}

std::size_t Decoder::kind_of(std::int64_t block) const {
  return config_.kind_of_block.empty() ? 0 : config_.kind_of_block[static_cast<std::size_t>(block)];
}

std::uint64_t Decoder::weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device, std::int64_t blocks, bool embedding) {
  const HeldElements held = held_elements(config, plan_shard(config, tp, tp_rank));
  const auto bytes_of = [](std::int64_t elements, at::ScalarType type) {
    return static_cast<std::uint64_t>(elements) * c10::elementSize(type);
  };
  const std::uint64_t block = bytes_of(held.block_matrices, block_type(product_type, device)) +
                              bytes_of(held.block_vectors, at::kFloat);
  std::uint64_t bytes = block * static_cast<std::uint64_t>(blocks) +
                        bytes_of(held.head, head_type(product_type, device));
  if (embedding && !config.tied_head) {
    bytes += bytes_of(held.embedding, product_type);
  }
  return bytes;
}

std::uint64_t Decoder::loaded_bytes() const {
  std::uint64_t bytes = head_.nbytes() + final_norm_.nbytes();
  if (embedding_.defined() && !config_.tied_head) {
    bytes += embedding_.nbytes();
  }
  for (const auto& block : blocks_) {
    if (block) {
      for (const at::Tensor& tensor : block->tensors()) {
        bytes += tensor.nbytes();
      }
    }
  }
  return bytes;
}

at::ScalarType Decoder::residual_type() const {
  return product_type_ == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  if (!embedding_.defined()) {
    throw BugError("the embedding is used but not loaded");
  }
  const Range rows = shard_.vocabulary;
  const at::Tensor is_local = ids.ge(rows.begin).logical_and_(ids.lt(rows.end));
  const at::Tensor local = at::where(is_local, ids - rows.begin, 0);
  const at::Tensor vectors = embedding_.index_select(0, local).to(residual_type());
  const at::Tensor whole =
      reduce_from_tensor_parallel(at::where(is_local.unsqueeze(1), vectors, 0.0), tp_);
  return embedding_scale_ == 1 ? whole : whole * embedding_scale_;
}

at::Tensor Decoder::normed(const at::Tensor& h, const at::Tensor& weight) const {
  return copy_to_tensor_parallel(rms_norm(h, weight, config_.norm_epsilon), tp_);
}

at::Tensor Decoder::project_onto(const at::Tensor& residual, const at::Tensor& x,
                                 const FrozenWeight& weight, const at::Tensor& bias,
                                 const at::Tensor& norm) const {
  if (tp_.size() == 1 && !bias.defined() && !norm.defined()) {
    return frozen_linear_onto(residual, x, weight);
  }
  at::Tensor sum = frozen_linear(x, weight);
  if (tp_.size() > 1) {
    sum = reduce_from_tensor_parallel(sum, tp_);
  }
  if (bias.defined()) {
    sum = sum + bias;
  }
  return residual + (norm.defined() ? rms_norm(sum, norm, config_.norm_epsilon) : sum);
}

// x [n, heads K] with every head normed by itself.
at::Tensor Decoder::normed_heads(const at::Tensor& x, const at::Tensor& norm) const {
  return rms_norm(x.reshape({-1, config_.head_size}), norm, config_.norm_epsilon).view(x.sizes());
}

// kv [n, 2 Hkv K] with every key head normed.
at::Tensor Decoder::with_normed_keys(const at::Tensor& kv, const at::Tensor& norm) const {
  const auto halves = kv.chunk(2, 1);
  return at::cat({normed_heads(halves[0], norm), halves[1]}, 1);
}

// [n, (H + 2 Hkv) K]
at::Tensor Decoder::project_heads(const Block& block, const at::Tensor& h) const {
  const at::Tensor qkv = frozen_linear(normed(h, block.attention_norm), block.qkv);
  return block.qkv_bias.defined() ? qkv + block.qkv_bias : qkv;
}

Decoder::HeadColumns Decoder::normed_columns(const Block& block, const at::Tensor& qkv) const {
  const std::int64_t width = heads_->query_heads() * heads_->head_size;
  const at::Tensor q = qkv.narrow(1, 0, width);
  const at::Tensor kv = qkv.narrow(1, width, qkv.size(1) - width);
  if (!block.query_norm.defined()) {
    return {q, kv};
  }
  return {normed_heads(q, block.query_norm), with_normed_keys(kv, block.key_norm)};
}

at::Tensor Decoder::attention(const Block& block, const at::Tensor& h,
                              const AttentionLayout& layout) const {
  const at::Tensor qkv = project_heads(block, h);
  at::Tensor result;
  if (block.query_norm.defined()) {
    const HeadColumns columns = normed_columns(block, qkv);
    result = bipo::attention(columns.q, columns.kv, heads_, layout.all, layout.all);
  } else {
    result = self_attention(qkv, heads_, layout.all);
  }
  return project_onto(h, result, block.attention_output, block.attention_output_bias,
                      block.attention_output_norm);
}

at::Tensor Decoder::cached_attention(const Block& block, const at::Tensor& h, const QuerySet& rows,
                                     const at::Tensor& places, const at::Tensor& keys,
                                     const at::Tensor& values) const {
  const HeadColumns columns = normed_columns(block, project_heads(block, h));
  const at::Tensor result =
      bipo::cached_attention(columns.q, columns.kv, *heads_, rows, places, {keys, values});
  return project_onto(h, result, block.attention_output, block.attention_output_bias,
                      block.attention_output_norm);
}

at::Tensor Decoder::answer_attention(const Block& block, const at::Tensor& h,
                                     const at::Tensor& answer_rows,
                                     const AttentionLayout& layout) const {
  const at::Tensor x = normed(h, block.attention_norm);
  const std::int64_t width = heads_->query_heads() * heads_->head_size;
  const std::int64_t rest = block.qkv.matrix.size(0) - width;
  const FrozenWeight query{block.qkv.matrix.narrow(0, 0, width), block.qkv.rounds_inputs};
  const FrozenWeight key_value{block.qkv.matrix.narrow(0, width, rest), block.qkv.rounds_inputs};
  at::Tensor q = frozen_linear(x.index_select(0, answer_rows), query);
  at::Tensor kv = frozen_linear(x, key_value);
  if (block.qkv_bias.defined()) {
    q = q + block.qkv_bias.narrow(0, 0, width);
    kv = kv + block.qkv_bias.narrow(0, width, rest);
  }
  if (block.query_norm.defined()) {
    q = normed_heads(q, block.query_norm);
    kv = with_normed_keys(kv, block.key_norm);
  }
  const at::Tensor result = bipo::attention(q, kv, heads_, layout.answers, layout.all);
  return project_onto(h.index_select(0, answer_rows), result, block.attention_output,
                      block.attention_output_bias, block.attention_output_norm);
}

at::Tensor Decoder::mlp(const Block& block, const at::Tensor& h) const {
  const at::Tensor gate_up = frozen_linear(normed(h, block.mlp_norm), block.gate_up);
  return project_onto(h, gated_unit(gate_up, config_.activation), block.down, at::Tensor(),
                      block.mlp_output_norm);
}

at::Tensor Decoder::run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    h = mlp(block(i), attention(block(i), h, layout.kinds[kind_of(i)]));
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
  return mlp(block(last),
             answer_attention(block(last), h, layout.answer_rows, layout.kinds[kind_of(last)]));
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

at::Tensor Decoder::run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                               const KeyValueCache& cache) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const auto kept = static_cast<std::size_t>(i - cache.blocks.begin);
    h = mlp(block(i), cached_attention(block(i), h, layout.kinds[kind_of(i)], layout.places,
                                       cache.keys.at(kept), cache.values.at(kept)));
  }
  return h;
}

HeadShard Decoder::head() const {
  return {head_, config_.vocabulary, config_.logit_soft_cap, tp_};
}

at::Tensor Decoder::next_token_logits(const at::Tensor& h) const {
  return token_logits(normed(h, final_norm_), head());
}

at::Tensor Decoder::next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                         const at::Tensor& targets) const {
  return token_log_probs(normed(h, final_norm_), head(), row_of_target, targets);
}

at::Tensor Decoder::next_token_divergences(const at::Tensor& h,
                                           const std::vector<at::Tensor>& others) const {
  std::vector<at::Tensor> normed_others;
  for (const at::Tensor& other : others) {
    normed_others.push_back(normed(other, final_norm_));
  }
  return token_divergences(normed(h, final_norm_), normed_others, head());
}

}  // namespace bipo
