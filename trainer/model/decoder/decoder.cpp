#include "trainer/model/decoder/decoder.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "collectives/tensor_parallel.hpp"
#include "trainer/model/decoder/attention_mixer.hpp"
#include "trainer/model/decoder/delta_mixer.hpp"
#include "trainer/model/operators/cpu_products.hpp"

namespace bipo {
namespace {

// Makes the mixer of every kind of block.
std::vector<std::unique_ptr<SequenceMixer>> make_mixers(const ModelConfig& config,
                                                        const ShardPlan& shard,
                                                        const BlockOperators& operators,
                                                        at::TensorOptions residual) {
  std::vector<std::unique_ptr<SequenceMixer>> mixers;
  for (std::size_t kind = 0; kind < config.attention_kinds.size(); ++kind) {
    if (config.attention_kinds[kind].is_recurrent) {
      mixers.push_back(std::make_unique<DeltaMixer>(config, shard, operators, residual));
    } else {
      mixers.push_back(std::make_unique<AttentionMixer>(config, shard, kind, operators, residual));
    }
  }
  return mixers;
}

bool blocks_keep_rows_apart(const ModelConfig& config) {
  const auto& kinds = config.attention_kinds;
  return std::all_of(kinds.begin(), kinds.end(), [](const AttentionKind& kind) {
    return kind.is_recurrent ? DeltaMixer::kHasIndependentRows
                             : AttentionMixer::kHasIndependentRows;
  });
}

// Returns the columns that the output of a block's mixer has on a rank.
std::int64_t mixed_columns(const ModelConfig& config, const ShardPlan& shard,
                           const AttentionKind& kind) {
  return kind.is_recurrent ? shard.delta_values.size() * config.delta_net->value_size
                           : shard.heads.size() * head_size_of(config, kind);
}

// Whether a row of all products, summed over `tp` ranks, has the same bits for any other rows.
bool products_keep_rows_apart(const ModelConfig& config, at::ScalarType product_type,
                              at::Device device, std::int64_t tp) {
  // The order of sums over more than two ranks may depend on the number of rows.
  if (!multiplies_in_tiles(product_type, device) || tp > 2) {
    return false;
  }
  if (product_type == at::kFloat || emulates_bfloat16(device)) {
    return true;
  }
  bool pairs_everywhere = config.hidden % 2 == 0;  // of columns, which bfloat16 tiles need
  for (std::int64_t rank = 0; rank < tp; ++rank) {
    const ShardPlan shard = plan_shard(config, tp, rank);
    pairs_everywhere = pairs_everywhere && shard.intermediate.size() % 2 == 0;
    for (const AttentionKind& kind : config.attention_kinds) {
      pairs_everywhere = pairs_everywhere && mixed_columns(config, shard, kind) % 2 == 0;
    }
  }
  return pairs_everywhere;
}

// Returns for every kind of block whether packed batches attend by flash attention.
std::vector<bool> flash_kinds(const ModelConfig& config, const ShardPlan& shard,
                              at::ScalarType product_type, at::Device device) {
  std::vector<bool> kinds;
  for (std::size_t kind = 0; kind < config.attention_kinds.size(); ++kind) {
    kinds.push_back(AttentionMixer::runs_flash(config, shard, kind, product_type, device));
  }
  return kinds;
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
      layouts_(config, residual_type_for(product_type), device,
               flash_kinds(config, shard_, product_type, device)),
      operators_(config_, product_type, tp),
      mixers_(
          make_mixers(config_, shard_, operators_,
                      at::TensorOptions().dtype(residual_type_for(product_type)).device(device))),
      embedding_scale_(at::scalar_tensor(config.embedding_scale, at::kDouble)
                           .to(product_type)
                           .to(at::kDouble)
                           .item<double>()) {
}

bool Decoder::has_independent_rows(const ModelConfig& config, at::ScalarType product_type,
                                   at::Device device, std::int64_t tp) {
  return blocks_keep_rows_apart(config) &&
         products_keep_rows_apart(config, product_type, device, tp);
}

Decoder::FlashFit Decoder::flash_fit(const ModelConfig& config, std::int64_t tp,
                                     std::int64_t largest_head) {
  FlashFit fit;
  for (std::size_t kind = 0; kind < config.attention_kinds.size(); ++kind) {
    if (config.attention_kinds[kind].is_recurrent) {
      continue;
    }
    std::string of_kind;
    for (std::int64_t rank = 0; rank < tp && of_kind.empty(); ++rank) {
      of_kind =
          AttentionMixer::flash_obstacle(config, plan_shard(config, tp, rank), kind, largest_head);
    }
    fit.some = fit.some || of_kind.empty();
    if (fit.obstacle.empty()) {
      fit.obstacle = std::move(of_kind);
    }
  }
  return fit;
}

bool Decoder::has_independent_cached_rows() const {
  return products_keep_rows_apart(config_, product_type_, device_, tp_.size());
}

const SequenceMixer& Decoder::mixer(std::int64_t block) const {
  return *mixers_[kind_of(config_, block)];
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

at::Tensor Decoder::run_blocks(at::Tensor h, Range blocks, const SequenceLayout& layout,
                               const ChangeMlpOutput& change) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const BlockWeights& block = weights_.block(i);
    h = mlp(block, h, mixer(i).run(block, h, layout), change);
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
  return mlp(block, config_.parallel_blocks ? h.index_select(0, layout.answer_rows) : at::Tensor(),
             mixer(last).run_to_answers(block, h, layout));
}

at::Tensor Decoder::run_cached(at::Tensor h, Range blocks, const CachedLayout& layout,
                               const DecoderCache& cache, const ChangeMlpOutput& change) const {
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const auto kept = static_cast<std::size_t>(i - cache.blocks.begin);
    const BlockWeights& block = weights_.block(i);
    h = mlp(block, h, mixer(i).run_cached(block, h, layout, cache.of_block.at(kept)), change);
  }
  return h;
}

// Returns a block's output from the residual stream `before` it (used in parallel blocks only) and
// behind its attention.
at::Tensor Decoder::mlp(const BlockWeights& block, const at::Tensor& before,
                        const at::Tensor& attended, const ChangeMlpOutput& change) const {
  const at::Tensor& input = config_.parallel_blocks ? before : attended;
  const at::Tensor gate_up =
      frozen_linear(operators_.product_input(input, block.mlp_norm), block.gate_up);
  const bool narrow = operators_.narrows(gate_up);
  const at::Tensor unit = config_.gated_mlp
                              ? gated_unit(gate_up, config_.activation, narrow)
                              : plain_unit(gate_up, block.up_bias, config_.activation, narrow);
  const at::Tensor sum =
      change ? operators_.add_branch(attended,
                                     change(operators_.project(unit, block.down, block.down_bias)),
                                     block.mlp_output_norm)
             : operators_.project_onto(attended, unit, block.down, block.down_bias,
                                       block.mlp_output_norm);
  return block.scale.defined() ? sum * block.scale : sum;
}

DecoderCache Decoder::make_cache(Range blocks, std::int64_t rows, std::int64_t regions) const {
  DecoderCache cache{blocks, {}};
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    cache.of_block.push_back(mixer(i).make_cache(rows, regions));
  }
  return cache;
}

std::uint64_t Decoder::cache_bytes(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank,
                                   Range blocks, std::int64_t rows, std::int64_t regions) {
  const ShardPlan shard = plan_shard(config, tp, tp_rank);
  std::int64_t of_region = 0;  // in a recurrent block
  if (config.delta_net) {
    const DeltaNetSizes& sizes = *config.delta_net;
    const std::int64_t keys = delta_key_part(sizes, shard).size() * sizes.key_size;
    const std::int64_t values = shard.delta_values.size() * sizes.value_size;
    of_region = values * sizes.key_size + (sizes.taps - 1) * (2 * keys + values);
  }
  std::int64_t elements = 0;
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const AttentionKind& kind = attention_of(config, i);
    elements += kind.is_recurrent
                    ? regions * of_region
                    : rows * 2 * kv_part(config, shard, kind).size() * head_size_of(config, kind);
  }
  return static_cast<std::uint64_t>(elements) * sizeof(float);
}

HeadShard Decoder::head() const {
  return {weights_.head(), config_.vocabulary, config_.logit_soft_cap, tp_, weights_.head_bias()};
}

at::Tensor Decoder::final_normed(const at::Tensor& h) const {
  return operators_.normed(h, weights_.final_norm());
}

at::Tensor Decoder::next_token_logits(const at::Tensor& h) const {
  return token_logits(final_normed(h), head());
}

at::Tensor Decoder::next_token_log_probs(const at::Tensor& h, const at::Tensor& row_of_target,
                                         const at::Tensor& targets) const {
  return token_log_probs(final_normed(h), head(), row_of_target, targets);
}

at::Tensor Decoder::next_token_divergences(const at::Tensor& h,
                                           const std::vector<at::Tensor>& others) const {
  std::vector<at::Tensor> normed_others;
  for (const at::Tensor& other : others) {
    normed_others.push_back(final_normed(other));
  }
  return token_divergences(final_normed(h), normed_others, head());
}

}  // namespace bipo
