#include "trainer/model/decoder/delta_mixer.hpp"

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>

#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

SharedDeltaHeads local_delta_heads(const DeltaNetSizes& sizes, const ShardPlan& shard,
                                   at::Device device) {
  auto heads = std::make_shared<DeltaHeads>();
  heads->key_size = sizes.key_size;
  heads->value_size = sizes.value_size;
  const Range keys = delta_key_part(sizes, shard);
  heads->key_heads = keys.size();
  const std::int64_t group = sizes.value_heads / sizes.key_heads;
  for (std::int64_t head = shard.delta_values.begin; head < shard.delta_values.end; ++head) {
    heads->key_head_of_value.push_back(head / group - keys.begin);
  }
  set_head_tables(*heads, device);
  return heads;
}

FrozenWeight rows_of(const FrozenWeight& weight, std::int64_t first, std::int64_t count) {
  return {weight.matrix.narrow(0, first, count), weight.rounds_inputs};
}

}  // namespace

DeltaMixer::DeltaMixer(const ModelConfig& config, const ShardPlan& shard,
                       const BlockOperators& operators, at::TensorOptions residual)
    : config_(config),
      operators_(operators),
      residual_(residual),
      heads_(local_delta_heads(config.delta_net.value(), shard, residual.device())) {
}

// Returns what the convolution takes, steps, decays and, if they are there, gates.
std::vector<at::Tensor> DeltaMixer::split(const at::Tensor& projected, bool gates) const {
  std::vector<std::int64_t> sizes = {heads_->columns(), heads_->value_heads(),
                                     heads_->value_heads()};
  if (gates) {
    sizes.push_back(heads_->value_columns());
  }
  return projected.split_with_sizes(sizes, 1);
}

DeltaOperands DeltaMixer::operands(const DeltaWeights& delta, const at::Tensor& mixed,
                                   const std::vector<at::Tensor>& parts) const {
  return {mixed, delta.decay * at::softplus(parts[2] + delta.decay_bias), at::sigmoid(parts[1])};
}

at::Tensor DeltaMixer::add_result(const at::Tensor& residual, const at::Tensor& result,
                                  const at::Tensor& gates, const DeltaWeights& delta) const {
  const at::Tensor normed =
      rms_norm(result.reshape({-1, heads_->value_size}), delta.norm, config_.norm_epsilon)
          .view(result.sizes());
  return add_output(residual, gated_unit(at::cat({gates, normed}, 1), Activation::kSilu), delta);
}

// What our own kernels take, for the products of `projected`.
DeviceDeltaNet DeltaMixer::device_net(const DeltaWeights& delta, const SequenceLayout& layout,
                                      const at::Tensor& projected) const {
  return {heads_,      layout.recurrent, delta.taps,           delta.decay_bias,
          delta.decay, delta.norm,       config_.norm_epsilon, operators_.narrows(projected)};
}

at::Tensor DeltaMixer::add_output(const at::Tensor& residual, const at::Tensor& gated,
                                  const DeltaWeights& delta) const {
  return operators_.project_onto(residual, gated, delta.output, at::Tensor(), at::Tensor());
}

at::Tensor DeltaMixer::run(const BlockWeights& block, const at::Tensor& h,
                           const SequenceLayout& layout) const {
  const DeltaWeights& delta = block.delta;
  if (layout.recurrent->compiled) {
    const at::Tensor projected =
        frozen_linear(operators_.product_input(h, block.attention_norm), delta.input);
    return add_output(h, device_delta_net(projected, device_net(delta, layout, projected)), delta);
  }
  const at::Tensor x = operators_.normed(h, block.attention_norm);
  const auto parts = split(frozen_linear(x, delta.input), /*gates=*/true);
  const at::Tensor mixed = short_convolution(parts[0], delta.taps, layout.recurrent);
  const at::Tensor result =
      gated_delta_rule(operands(delta, mixed, parts), heads_, layout.recurrent);
  return add_result(h, result, parts[3], delta);
}

// Every row changes the state, but only the rows that predict need what comes after it.
at::Tensor DeltaMixer::run_to_answers(const BlockWeights& block, const at::Tensor& h,
                                      const SequenceLayout& layout) const {
  const DeltaWeights& delta = block.delta;
  const std::int64_t gates = heads_->value_columns();
  const std::int64_t others = delta.input.matrix.size(0) - gates;
  if (layout.recurrent->compiled) {
    const at::Tensor input = operators_.product_input(h, block.attention_norm);
    const at::Tensor of_answers = input.index_select(0, layout.answer_rows);
    accept_any_gradient(of_answers);
    const at::Tensor projected = frozen_linear(input, rows_of(delta.input, 0, others));
    const at::Tensor gated =
        device_delta_net(projected, frozen_linear(of_answers, rows_of(delta.input, others, gates)),
                         layout.answer_rows, device_net(delta, layout, projected));
    return add_output(h.index_select(0, layout.answer_rows), gated, delta);
  }
  const at::Tensor x = operators_.normed(h, block.attention_norm);
  const auto parts = split(frozen_linear(x, rows_of(delta.input, 0, others)), /*gates=*/false);
  const at::Tensor mixed = short_convolution(parts[0], delta.taps, layout.recurrent);
  const at::Tensor result =
      gated_delta_rule(operands(delta, mixed, parts), heads_, layout.recurrent);
  const auto of_answers = [&](const at::Tensor& rows) {
    return rows.index_select(0, layout.answer_rows);
  };
  return add_result(of_answers(h), of_answers(result),
                    frozen_linear(of_answers(x), rows_of(delta.input, others, gates)), delta);
}

at::Tensor DeltaMixer::run_cached(const BlockWeights& block, const at::Tensor& h,
                                  const CachedLayout& layout, const BlockCache& cache) const {
  const DeltaWeights& delta = block.delta;
  const at::Tensor x = operators_.normed(h, block.attention_norm);
  const auto parts = split(frozen_linear(x, delta.input), /*gates=*/true);
  const CachedRecurrence& rows = *layout.recurrent;
  const at::Tensor mixed = cached_convolution(parts[0], delta.taps, rows, cache.states);
  const DeltaRates rates = cached_rates(parts[2], parts[1], delta.decay_bias, delta.decay);
  const at::Tensor result =
      cached_delta_rule({mixed, rates.decays, rates.steps}, *heads_, rows, cache.states);
  return add_result(h, result, parts[3], delta);
}

BlockCache DeltaMixer::make_cache(std::int64_t /*rows*/, std::int64_t regions) const {
  return {
      {},
      {at::empty({regions, heads_->value_heads(), heads_->key_size, heads_->value_size}, residual_),
       at::empty({regions, config_.delta_net->taps - 1, heads_->columns()}, residual_)}};
}

}  // namespace bipo
