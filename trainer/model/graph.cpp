#include "trainer/model/graph.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "collectives/errors.hpp"
#include "collectives/tensor_parallel.hpp"
#include "trainer/model/attention.hpp"
#include "trainer/model/log_probs.hpp"
#include "trainer/model/operators.hpp"

namespace bipo {
namespace {

// transformers' inverse frequencies, in float32 as there; "llama3" scaling divides long wavelengths
// by `factor`, keeps short ones and interpolates in between (Llama 3.1 reference code,
// apply_scaling).
at::Tensor inverse_frequencies(const ModelConfig& config) {
  const at::Tensor exponents = at::arange(0, config.head_size, 2, at::kLong).to(at::kFloat) /
                               static_cast<double>(config.head_size);
  at::Tensor frequencies = at::reciprocal(at::pow(config.rope_theta, exponents));
  if (!config.rope_divisors.empty()) {
    frequencies = frequencies / at::tensor(config.rope_divisors, at::kFloat);
  }
  if (!config.rope_scaling) {
    return frequencies;
  }
  const Llama3RopeScaling& scaling = *config.rope_scaling;
  const at::Tensor wavelengths = 2 * std::numbers::pi / frequencies;
  const double longest_kept = scaling.original_context / scaling.high_frequency_factor;
  const double shortest_scaled = scaling.original_context / scaling.low_frequency_factor;
  const at::Tensor blend = (scaling.original_context / wavelengths - scaling.low_frequency_factor) /
                           (scaling.high_frequency_factor - scaling.low_frequency_factor);
  const at::Tensor scaled = frequencies / scaling.factor;
  const at::Tensor between = (1 - blend) * scaled + blend * frequencies;
  return at::where(wavelengths < longest_kept, frequencies,
                   at::where(wavelengths > shortest_scaled, scaled, between));
}

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
      inverse_frequencies_(inverse_frequencies(config).to(device)),
      blocks_(static_cast<std::size_t>(config.blocks)) {
  heads_.head_size = config.head_size;
  heads_.kv_heads = shard_.kv_heads.size();
  const std::int64_t group = config.heads / config.kv_heads;
  for (std::int64_t head = shard_.heads.begin; head < shard_.heads.end; ++head) {
    heads_.kv_head_of_query.push_back(head / group - shard_.kv_heads.begin);
  }
  head_ = read(config.tied_head ? Role::kEmbedding : Role::kHead, 0)
              .to(at::TensorOptions().dtype(head_type(product_type, device)).device(device));
  final_norm_ =
      read(Role::kFinalNorm, 0).to(at::TensorOptions().dtype(residual_type()).device(device));
}

at::Tensor Decoder::read(Role role, std::int64_t block) const {
  return source_.read(role, block, slice_of(config_, shard_, role));
}

Decoder::Block Decoder::read_block(std::int64_t index) const {
  const auto norm = [&](Role role) {
    return read(role, index).to(at::TensorOptions().dtype(residual_type()).device(device_));
  };
  const auto weight = [&](const at::Tensor& matrix) {
    return make_frozen_weight(matrix, product_type_, device_);
  };
  return {norm(Role::kAttentionNorm),
          weight(at::cat(
              {read(Role::kQuery, index), read(Role::kKey, index), read(Role::kValue, index)})),
          weight(read(Role::kAttentionOutput, index)),
          norm(Role::kMlpNorm),
          weight(at::cat({read(Role::kGate, index), read(Role::kUp, index)})),
          weight(read(Role::kDown, index))};
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

std::uint64_t Decoder::weight_bytes(const ModelConfig& config, std::int64_t tp,
                                    std::int64_t tp_rank, at::ScalarType product_type,
                                    at::Device device, std::int64_t blocks, bool embedding) {
  const HeldElements held = held_elements(config, plan_shard(config, tp, tp_rank));
  const auto bytes_of = [](std::int64_t elements, at::ScalarType type) {
    return static_cast<std::uint64_t>(elements) * c10::elementSize(type);
  };
  const std::uint64_t block = bytes_of(held.block_matrices, block_type(product_type, device)) +
                              bytes_of(held.block_norms, at::kFloat);
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
      bytes += block->attention_norm.nbytes() + block->qkv.matrix.nbytes() +
               block->attention_output.matrix.nbytes() + block->mlp_norm.nbytes() +
               block->gate_up.matrix.nbytes() + block->down.matrix.nbytes();
    }
  }
  return bytes;
}

at::ScalarType Decoder::residual_type() const {
  return product_type_ == at::kDouble ? at::kDouble : at::kFloat;
}

SequenceLayout Decoder::layout(const std::vector<std::int64_t>& positions,
                               const std::vector<SequencePart>& parts,
                               const std::vector<std::int64_t>& answer_rows) const {
  SequenceLayout result;
  const at::Tensor places = at::tensor(positions, at::kLong).to(device_).to(at::kFloat);
  const at::Tensor angles = at::outer(places, inverse_frequencies_);
  result.answer_rows = at::tensor(answer_rows, at::kLong).to(device_);
  result.all.spans = query_spans(parts, nullptr);
  result.all.cos = angles.cos().to(residual_type());
  result.all.sin = angles.sin().to(residual_type());
  result.answers.spans = query_spans(parts, &answer_rows);
  result.answers.cos = result.all.cos.index_select(0, result.answer_rows);
  result.answers.sin = result.all.sin.index_select(0, result.answer_rows);
  if (!runs_fused(result.all.cos)) {
    result.all.padded = pad_spans(result.all.spans, device_);
    result.answers.padded = pad_spans(result.answers.spans, device_);
  }
  return result;
}

at::Tensor Decoder::embed(const at::Tensor& ids) const {
  if (!embedding_.defined()) {
    throw BugError("the embedding is used but not loaded");
  }
  const Range rows = shard_.vocabulary;
  const at::Tensor is_local = ids.ge(rows.begin).logical_and_(ids.lt(rows.end));
  const at::Tensor local = at::where(is_local, ids - rows.begin, 0);
  const at::Tensor vectors = embedding_.index_select(0, local).to(residual_type());
  return reduce_from_tensor_parallel(at::where(is_local.unsqueeze(1), vectors, 0.0), tp_);
}

at::Tensor Decoder::normed(const at::Tensor& h, const at::Tensor& weight) const {
  return copy_to_tensor_parallel(rms_norm(h, weight, config_.norm_epsilon), tp_);
}

at::Tensor Decoder::project_onto(const at::Tensor& residual, const at::Tensor& x,
                                 const FrozenWeight& weight) const {
  if (tp_.size() == 1) {
    return frozen_linear_onto(residual, x, weight);
  }
  return residual + reduce_from_tensor_parallel(frozen_linear(x, weight), tp_);
}

at::Tensor Decoder::attention(const Block& block, const at::Tensor& h,
                              const SequenceLayout& layout) const {
  const at::Tensor qkv = frozen_linear(normed(h, block.attention_norm), block.qkv);
  return project_onto(h, self_attention(qkv, heads_, layout), block.attention_output);
}

at::Tensor Decoder::answer_attention_onto(const Block& block, const at::Tensor& h,
                                          const SequenceLayout& layout) const {
  const at::Tensor x = normed(h, block.attention_norm);
  const std::int64_t width = heads_.query_heads() * heads_.head_size;
  const at::Tensor& matrix = block.qkv.matrix;
  const FrozenWeight query{matrix.narrow(0, 0, width), block.qkv.rounds_inputs};
  const FrozenWeight key_value{matrix.narrow(0, width, matrix.size(0) - width),
                               block.qkv.rounds_inputs};
  const at::Tensor q = frozen_linear(x.index_select(0, layout.answer_rows), query);
  const at::Tensor result = answer_attention(q, frozen_linear(x, key_value), heads_, layout);
  return project_onto(h.index_select(0, layout.answer_rows), result, block.attention_output);
}

at::Tensor Decoder::mlp(const Block& block, const at::Tensor& h) const {
  const at::Tensor gate_up = frozen_linear(normed(h, block.mlp_norm), block.gate_up);
  return project_onto(h, swiglu(gate_up), block.down);
}

at::Tensor Decoder::run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    h = mlp(block(i), attention(block(i), h, layout));
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
  return mlp(block(last), answer_attention_onto(block(last), h, layout));
}

at::Tensor Decoder::next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                         const at::Tensor& targets) const {
  return token_log_probs(normed(h, final_norm_), head_, row_of_target, targets, shard_.vocabulary,
                         tp_);
}

}  // namespace bipo
