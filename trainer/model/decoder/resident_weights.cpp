#include "trainer/model/decoder/resident_weights.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/rotary_tables.hpp"

namespace bipo {
namespace {

// Log-softmax needs logits better than bfloat16; on the CPU only a float32 head yields them.
at::ScalarType head_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && device.is_cpu() ? at::kFloat : product_type;
}

at::ScalarType block_type(at::ScalarType product_type, at::Device device) {
  return product_type == at::kBFloat16 && emulates_bfloat16(device) ? at::kFloat : product_type;
}

std::uint64_t bytes_of(const BlockWeights& block) {
  std::uint64_t bytes = 0;
  for (const at::Tensor& tensor :
       {block.attention_norm, block.qkv.matrix, block.qkv_bias, block.query_norm, block.key_norm,
        block.attention_output.matrix, block.attention_output_bias, block.attention_output_norm,
        block.mlp_norm, block.gate_up.matrix, block.down.matrix, block.mlp_output_norm}) {
    bytes += tensor.defined() ? tensor.nbytes() : 0;
  }
  return bytes;
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
  final_norm_ = read_vector(Role::kFinalNorm, 0);
}

at::Tensor ResidentWeights::read(Role role, std::int64_t block) const {
  return source_.read(role, block, slice_of(config_, shard_, role));
}

at::Tensor ResidentWeights::read_vector(Role role, std::int64_t block) const {
  const at::Tensor vector =
      read(role, block)
          .to(at::TensorOptions().dtype(residual_type_for(product_type_)).device(device_));
  return config_.norms_from_one && is_norm(role) ? vector + 1 : vector;
}

// Returns rows of whole heads, in the order that the rotation expects.
at::Tensor ResidentWeights::read_query_key(Role role, std::int64_t block) const {
  const at::Tensor rows = read(role, block);
  const RotaryEmbedding& rotary = config_.rotary.front();
  if (rotary.rotated == 0 || rotary.rotated == config_.head_size) {
    return rows;
  }
  const at::Tensor order = at::tensor(rotary_order(rotary, config_.head_size), at::kLong);
  const std::int64_t heads = rows.size(0) / config_.head_size;
  return rows.view({heads, config_.head_size, -1}).index_select(1, order).view(rows.sizes());
}

BlockWeights ResidentWeights::read_block(std::int64_t index) const {
  const auto vector = [&](Role role) { return read_vector(role, index); };
  const auto weight = [&](const at::Tensor& matrix) {
    return make_frozen_weight(matrix, product_type_, device_);
  };
  BlockWeights block;
  block.attention_norm = vector(Role::kAttentionNorm);
  block.qkv = weight(at::cat({read_query_key(Role::kQuery, index),
                              read_query_key(Role::kKey, index), read(Role::kValue, index)}));
  block.attention_output = weight(read(Role::kAttentionOutput, index));
  block.mlp_norm = vector(Role::kMlpNorm);
  block.gate_up = weight(at::cat({read(Role::kGate, index), read(Role::kUp, index)}));
  block.down = weight(read(Role::kDown, index));
  if (config_.query_key_value_bias) {
    block.qkv_bias =
        at::cat({read_query_key(Role::kQueryBias, index), read_query_key(Role::kKeyBias, index),
                 read(Role::kValueBias, index)})
            .to(at::TensorOptions().dtype(residual_type_for(product_type_)).device(device_));
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
  std::uint64_t bytes = head_.nbytes() + final_norm_.nbytes();
  if (embedding_.defined() && !config_.tied_head) {
    bytes += embedding_.nbytes();
  }
  for (const auto& block : blocks_) {
    bytes += block ? bytes_of(*block) : 0;
  }
  return bytes;
}

std::uint64_t resident_bytes(const ModelConfig& config, const ShardPlan& shard,
                             at::ScalarType product_type, at::Device device, std::int64_t blocks,
                             bool embedding) {
  const HeldElements held = held_elements(config, shard);
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

}  // namespace bipo
