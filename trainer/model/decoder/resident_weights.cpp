#include "trainer/model/decoder/resident_weights.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <initializer_list>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/rotary_tables.hpp"

namespace bipo {
namespace {

at::ScalarType head_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && keeps_float_head(device) ? at::kFloat : product_type;
}

at::ScalarType block_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && emulates_bfloat16(device) ? at::kFloat : product_type;
}

std::uint64_t bytes_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.nbytes() : 0;
}

std::uint64_t bytes_of(const NormWeights& norm) {
  return bytes_of(norm.weight) + bytes_of(norm.bias);
}

std::uint64_t bytes_of(const BlockWeights& block) {
  std::uint64_t bytes = 0;
  for (const at::Tensor& tensor : {block.query_gate.matrix,
                                   block.delta.input.matrix,
                                   block.delta.taps,
                                   block.delta.decay,
                                   block.delta.decay_bias,
                                   block.delta.norm,
                                   block.delta.output.matrix,
                                   block.attention_norm.weight,
                                   block.attention_norm.bias,
                                   block.qkv.matrix,
                                   block.qkv_bias,
                                   block.query_norm,
                                   block.key_norm,
                                   block.attention_output.matrix,
                                   block.attention_output_bias,
                                   block.attention_output_norm,
                                   block.gate_up.matrix,
                                   block.up_bias,
                                   block.down.matrix,
                                   block.down_bias,
                                   block.mlp_output_norm,
                                   block.scale}) {
    bytes += bytes_of(tensor);
  }
  const bool shares_norm = block.mlp_norm.weight.is_same(block.attention_norm.weight);
  return shares_norm ? bytes : bytes + bytes_of(block.mlp_norm);
}

}  // namespace

ResidentWeights::ResidentWeights(const ModelConfig& config, const ShardPlan& shard,
                                 const WeightSource& source, at::ScalarType product_type,
                                 at::Device device)
    : config_(config),
      shard_(shard),
      source_(source),
      product_type_(product_type),
      device_(device),
      blocks_(static_cast<std::size_t>(config.blocks)) {
  head_ = read(config.tied_head ? Role::kEmbedding : Role::kHead, 0)
              .to(at::TensorOptions().dtype(head_type(product_type, device)).device(device));
  // The head is linear, so that its scale may as well be the norm's and the bias's.
  final_norm_ = read_norm(Role::kFinalNorm, Role::kFinalNormBias, 0);
  final_norm_.weight = final_norm_.weight * config.logit_scale;
  if (final_norm_.bias.defined()) {
    final_norm_.bias = final_norm_.bias * config.logit_scale;
  }
  if (config.head_bias) {
    head_bias_ = read_vector(Role::kHeadBias, 0) * config.logit_scale;
  }
}

at::Tensor ResidentWeights::read(Role role, std::int64_t block) const {
  return source_.read(role, block, slice_of(config_, shard_, role, block));
}

at::Tensor ResidentWeights::read_vector(Role role, std::int64_t block) const {
  const at::Tensor vector =
      read(role, block)
          .to(at::TensorOptions().dtype(residual_type_for(product_type_)).device(device_));
  return config_.norms_from_one && is_norm(role) ? vector + 1 : vector;
}

// Returns rows of whole heads, in the order that the rotation expects.
at::Tensor ResidentWeights::in_rotary_order(const at::Tensor& rows, std::int64_t block) const {
  const AttentionKind& kind = attention_of(config_, block);
  const RotaryEmbedding& rotary = config_.rotary.at(kind.rotary.value_or(0));
  const std::int64_t head_size = head_size_of(config_, kind);
  const bool all_turn =
      rotary.rotated == 0 || rotary.rotated == head_size || rotary.over_whole_head;
  if (all_turn && !rotary.adjacent_pairs) {
    return rows;
  }
  const at::Tensor order = at::tensor(rotary_order(rotary, head_size), at::kLong);
  const std::int64_t heads = rows.size(0) / head_size;
  return rows.view({heads, head_size, -1}).index_select(1, order).view(rows.sizes());
}

// Returns the queries' rows (`which` 0) or their gates' (1): in files, each head's gate follows its
// query.
at::Tensor ResidentWeights::read_query_or_gate(std::int64_t block, std::int64_t which) const {
  const at::Tensor rows = read(Role::kQuery, block);
  if (!config_.gated_attention) {
    return rows;
  }
  const std::int64_t head_size = head_size_of(config_, attention_of(config_, block));
  const std::int64_t columns = rows.size(1);
  return rows.view({-1, 2, head_size, columns}).select(1, which).reshape({-1, columns});
}

at::Tensor ResidentWeights::read_query_key(Role role, std::int64_t block) const {
  return in_rotary_order(
      role == Role::kQuery ? read_query_or_gate(block, /*which=*/0) : read(role, block), block);
}

BlockWeights ResidentWeights::read_block(std::int64_t index) const {
  const auto vector = [&](Role role) { return read_vector(role, index); };
  BlockWeights block;
  if (config_.input_norms) {
    block.attention_norm = read_norm(Role::kAttentionNorm, Role::kAttentionNormBias, index);
    const bool shares_norm = config_.parallel_blocks && !config_.parallel_norms;
    block.mlp_norm =
        shares_norm ? block.attention_norm : read_norm(Role::kMlpNorm, Role::kMlpNormBias, index);
  }
  if (attention_of(config_, index).is_recurrent) {
    block.delta = read_delta(index);
  } else {
    read_attention(index, block);
  }
  read_mlp(index, block);
  if (config_.output_norms) {
    block.mlp_output_norm = vector(Role::kMlpOutputNorm);
  }
  if (config_.block_scales) {
    block.scale = vector(Role::kBlockScale);
  }
  return block;
}

// Returns a norm with its bias, if the model's norms have biases.
NormWeights ResidentWeights::read_norm(Role weight, Role bias, std::int64_t block) const {
  return {read_vector(weight, block),
          config_.norm_biases ? read_vector(bias, block) : at::Tensor()};
}

void ResidentWeights::read_mlp(std::int64_t index, BlockWeights& block) const {
  const at::Tensor up = read(Role::kUp, index);
  block.gate_up = make_frozen_weight(
      config_.gated_mlp ? at::cat({read(Role::kGate, index), up}) : up, product_type_, device_);
  block.down = make_frozen_weight(read(Role::kDown, index), product_type_, device_);
  if (config_.mlp_biases) {
    block.up_bias = read_vector(Role::kUpBias, index);
    block.down_bias = read_vector(Role::kDownBias, index);
  }
}

void ResidentWeights::read_attention(std::int64_t index, BlockWeights& block) const {
  const auto vector = [&](Role role) { return read_vector(role, index); };
  const auto weight = [&](const at::Tensor& matrix) {
    return make_frozen_weight(matrix, product_type_, device_);
  };
  std::vector<at::Tensor> qkv = {read_query_key(Role::kQuery, index),
                                 read_query_key(Role::kKey, index)};
  if (!attention_of(config_, index).values_are_keys) {
    qkv.push_back(read(Role::kValue, index));
  }
  block.qkv = weight(at::cat(qkv));
  if (config_.gated_attention) {
    block.query_gate = weight(read_query_or_gate(index, /*which=*/1));
  }
  block.attention_output = weight(read(Role::kAttentionOutput, index));
  if (config_.query_key_value_bias) {
    std::vector<at::Tensor> biases = {read_query_key(Role::kQueryBias, index),
                                      read_query_key(Role::kKeyBias, index)};
    if (!attention_of(config_, index).values_are_keys) {
      biases.push_back(read(Role::kValueBias, index));
    }
    block.qkv_bias = at::cat(biases).to(
        at::TensorOptions().dtype(residual_type_for(product_type_)).device(device_));
  }
  if (config_.query_key_norms == QueryKeyNorms::kByHead) {
    block.query_norm = in_rotary_order(vector(Role::kQueryNorm), index).contiguous();
    block.key_norm = in_rotary_order(vector(Role::kKeyNorm), index).contiguous();
  }
  if (config_.query_key_norms == QueryKeyNorms::kOfAllHeads) {
    block.query_norm = vector(Role::kJointQueryNorm);
    block.key_norm = vector(Role::kJointKeyNorm);
  }
  if (config_.value_norms) {
    block.value_norm = at::ones_like(block.key_norm);
  }
  if (config_.attention_output_bias) {
    block.attention_output_bias = vector(Role::kAttentionOutputBias);
  }
  if (config_.output_norms) {
    block.attention_output_norm = vector(Role::kAttentionOutputNorm);
  }
}

DeltaWeights ResidentWeights::read_delta(std::int64_t index) const {
  const auto vector = [&](Role role) { return read_vector(role, index); };
  const auto rows = [&](std::initializer_list<Role> roles) {
    std::vector<at::Tensor> parts;
    for (const Role role : roles) {
      parts.push_back(read(role, index));
    }
    return at::cat(parts);
  };
  DeltaWeights delta;
  delta.input = make_frozen_weight(rows({Role::kDeltaQuery, Role::kDeltaKey, Role::kDeltaValue,
                                         Role::kDeltaStep, Role::kDeltaDecay, Role::kDeltaGate}),
                                   product_type_, device_);
  delta.taps = rows({Role::kDeltaQueryTaps, Role::kDeltaKeyTaps, Role::kDeltaValueTaps})
                   .to(at::TensorOptions().dtype(residual_type_for(product_type_)).device(device_))
                   .t()
                   .contiguous();
  delta.decay = -vector(Role::kDeltaDecayScale).exp();
  delta.decay_bias = vector(Role::kDeltaDecayBias);
  delta.norm = vector(Role::kDeltaNorm);
  delta.output = make_frozen_weight(read(Role::kDeltaOutput, index), product_type_, device_);
  return delta;
}

void ResidentWeights::load_blocks(Range blocks) {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    auto& block = blocks_[static_cast<std::size_t>(i)];
    if (!block) {
      block = read_block(i);
    }
  }
}

void ResidentWeights::load_embedding() {
  if (!embedding_.defined()) {
    embedding_ = config_.tied_head
                     ? head_
                     : read(Role::kEmbedding, 0)
                           .to(at::TensorOptions().dtype(product_type_).device(device_));
  }
}

void ResidentWeights::release_blocks(Range blocks) {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    blocks_[static_cast<std::size_t>(i)].reset();
  }
}

void ResidentWeights::release_embedding() {
  embedding_ = at::Tensor();
}

const BlockWeights& ResidentWeights::block(std::int64_t index) const {
  const auto& block = blocks_.at(static_cast<std::size_t>(index));
  if (!block) {
    throw BugError(fmt::format("block {} is used but not loaded", index));
  }
  return *block;
}

const at::Tensor& ResidentWeights::embedding() const {
  if (!embedding_.defined()) {
    throw BugError("the embedding is used but not loaded");
  }
  return embedding_;
}

std::uint64_t ResidentWeights::bytes() const {
  std::uint64_t bytes = head_.nbytes() + bytes_of(final_norm_) + bytes_of(head_bias_);
  if (embedding_.defined() && !config_.tied_head) {
    bytes += embedding_.nbytes();
  }
  for (const auto& block : blocks_) {
    bytes += block ? bytes_of(*block) : 0;
  }
  return bytes;
}

std::uint64_t resident_bytes(const ModelConfig& config, const ShardPlan& shard,
                             at::ScalarType product_type, at::Device device, Range blocks,
                             bool embedding) {
  const OuterElements outer = outer_elements(config, shard);
  const auto bytes_of = [](std::int64_t elements, at::ScalarType type) {
    return static_cast<std::uint64_t>(elements) * c10::elementSize(type);
  };
  std::uint64_t bytes = bytes_of(outer.head, head_type(product_type, device));
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const BlockElements block = block_elements(config, shard, i);
    bytes += bytes_of(block.matrices, block_type(product_type, device)) +
             bytes_of(block.vectors, at::kFloat);
  }
  if (embedding && !config.tied_head) {
    bytes += bytes_of(outer.embedding, product_type);
  }
  return bytes;
}

}  // namespace bipo
