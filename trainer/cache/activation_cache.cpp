#include "trainer/cache/activation_cache.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/number_reduction.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

std::uint64_t layer_key(const CacheSettings& settings, std::int64_t layer) {
  ContentHash hash;
  hash.add(settings.key);
  hash.add(static_cast<std::uint64_t>(layer));
  hash.add(static_cast<std::uint64_t>(settings.type));
  hash.add(static_cast<std::uint64_t>(settings.group_size));
  return hash.value();
}

// Every rank holds the same values.
void require_finite(const std::vector<TokenPair>& pairs,
                    const std::vector<AnswerLogProbs>& reference) {
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    if (!std::isfinite(reference[p].chosen) || !std::isfinite(reference[p].rejected)) {
      throw AgreedFailure(
          fmt::format("{}: the model's own log-probability is not finite (chosen {}, rejected {}); "
                      "if the model overflows, try --dtype fp32",
                      pairs[p].where, reference[p].chosen, reference[p].rejected),
          kExitFailure);
    }
  }
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return values.size() % 2 == 1 ? *middle
                                : (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace

at::Tensor token_rms(const at::Tensor& h) {
  return h.to(at::kDouble).square().mean(-1).sqrt().to(at::kCPU);
}

double shared_median(std::vector<double> rms, at::Device device, const Ranks& ranks) {
  share_rows(rms, device, ranks);
  return median(std::move(rms));
}

ActivationCache::ActivationCache(const Decoder& decoder, const std::vector<TokenPair>& pairs,
                                 const CacheSettings& settings, const Ranks& ranks)
    : pairs_(pairs),
      settings_(settings),
      groups_(consecutive_groups(static_cast<std::int64_t>(pairs.size()), settings.group_size)),
      first_token_{0} {
  for (const TokenPair& pair : pairs) {
    first_token_.push_back(first_token_.back() + packed_size(pair));
  }
  const StoreShape shape{first_token_.back(), decoder.config().hidden,
                         static_cast<std::int64_t>(pairs.size()), settings.type};
  for (const std::int64_t layer : settings.layers) {
    Layer entry;
    entry.layer = layer;
    if (settings.keep && settings.directory.empty()) {
      entry.store = std::make_unique<ActivationStore>(shape, *ranks.node);
    } else if (settings.keep) {
      entry.store =
          std::make_unique<ActivationStore>(shape, settings.directory, layer_key(settings, layer));
      entry.filled = holds_on_all(entry.store->is_complete(), *ranks.world);
      if (entry.filled) {
        read_back(entry);
      } else {
        entry.store->begin(*ranks.node);
      }
    }
    layers_.push_back(std::move(entry));
  }
}

std::uint64_t ActivationCache::bytes_needed(std::int64_t hidden,
                                            const std::vector<TokenPair>& pairs,
                                            at::ScalarType type) {
  StoreShape shape{0, hidden, static_cast<std::int64_t>(pairs.size()), type};
  for (const TokenPair& pair : pairs) {
    shape.tokens += packed_size(pair);
  }
  return shape.bytes();
}

bool ActivationCache::is_filled() const {
  return std::all_of(layers_.begin(), layers_.end(),
                     [](const Layer& layer) { return layer.filled; });
}

const ActivationCache::Layer& ActivationCache::at(std::int64_t layer) const {
  const auto found = std::find_if(layers_.begin(), layers_.end(),
                                  [&](const Layer& entry) { return entry.layer == layer; });
  if (found == layers_.end()) {
    throw BugError(fmt::format("layer {} is not in the activation cache", layer));
  }
  return *found;
}

Range ActivationCache::rows_of(std::int64_t pair) const {
  const auto index = static_cast<std::size_t>(pair);
  return {first_token_[index], first_token_[index + 1]};
}

void ActivationCache::read_back(Layer& layer) {
  const double* values = layer.store->log_probs().const_data_ptr<double>();
  for (std::size_t p = 0; p < pairs_.size(); ++p) {
    layer.reference.push_back({values[2 * p], values[2 * p + 1]});
  }
  layer.median_rms = *layer.store->median_rms().const_data_ptr<double>();
}

at::Tensor ActivationCache::activations(const Decoder& decoder, const PackedPairs& packed,
                                        std::int64_t layer) const {
  std::vector<std::int64_t> rows(packed.pair_of_token.size());
  const auto residual = at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
  if (settings_.keep) {
    for (std::size_t t = 0; t < rows.size(); ++t) {
      rows[t] = rows_of(packed.pair_of_token[t]).begin + packed.offset_of_token[t];
    }
    return at(layer).store->activations().index_select(0, at::tensor(rows, at::kLong)).to(residual);
  }
  std::map<std::int64_t, std::int64_t> first_row;  // of each pair among the rows computed here
  std::vector<at::Tensor> parts;
  std::int64_t next = 0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    const std::int64_t pair = packed.pair_of_token[t];
    const auto [place, is_new] = first_row.try_emplace(pair, next);
    if (is_new) {
      parts.push_back(run_prefix(decoder, pack_alike(pairs_, {pair}, decoder), layer));
      next += parts.back().size(0);
    }
    rows[t] = place->second + packed.offset_of_token[t];
  }
  return at::cat(parts).index_select(0, at::tensor(rows, at::kLong).to(decoder.device()));
}

std::vector<AnswerLogProbs> ActivationCache::score(const ScoringContext& context,
                                                   std::int64_t layer, const at::Tensor& vector,
                                                   double coefficient) const {
  const at::NoGradGuard no_grad;
  std::vector<AnswerLogProbs> answers(pairs_.size());
  for_each_group(context, static_cast<std::int64_t>(pairs_.size()),
                 [&](const std::vector<std::int64_t>& group) {
                   const PackedPairs packed = pack_alike(pairs_, group, context.decoder);
                   const Steering steering{
                       layer, at::full({1, packed.tokens()}, coefficient, vector.options()),
                       vector.unsqueeze(0)};
                   const PairScores scores =
                       score_pairs(context.decoder, packed,
                                   activations(context.decoder, packed, layer), steering);
                   for (std::size_t i = 0; i < group.size(); ++i) {
                     answers[static_cast<std::size_t>(group[i])] = scores.answers[i];
                   }
                 });
  share_rows(answers, context.decoder.device(), context.ranks);
  return answers;
}

// One pass over the data of several caches for the same layers.
class PrefixPass {
 public:
  PrefixPass(Decoder& decoder, const std::vector<ActivationCache*>& caches, const Ranks& ranks,
             const PassProgress& progress)
      : decoder_(decoder),
        caches_(caches),
        layers_(caches.front()->settings_.layers),
        keeps_all_(std::all_of(caches.begin(), caches.end(),
                               [](const auto* cache) { return cache->keeps_activations(); })),
        ranks_(ranks),
        progress_(progress) {}

  void run() {
    const at::NoGradGuard no_grad;
    const std::int64_t blocks = decoder_.config().blocks;
    std::vector<ActivationCache*> empty;
    for (ActivationCache* cache : caches_) {
      if (!cache->is_filled()) {
        empty.push_back(cache);
        found_[cache] = Found(*cache);
      }
    }
    if (!keeps_all_) {
      decoder_.load_embedding();
      decoder_.load_blocks({0, blocks});
      stream_by_groups(empty);
    } else if (!empty.empty()) {
      decoder_.load_embedding();
      stream(board(empty));
      decoder_.release_embedding();
    }
    decoder_.load_blocks({layers_.front() + 1, blocks});
    for (ActivationCache* cache : empty) {
      share(*cache);
      find_references(*cache);
      finish(*cache);
    }
  }

 private:
  // A pair that this replica computes.
  struct Passenger {
    ActivationCache* cache;
    std::int64_t pair;
    PackedPairs packed;
    at::Tensor hidden;
  };

  // What this replica found of a cache's pairs; 0 for those of other replicas.
  struct Found {
    Found() = default;
    explicit Found(const ActivationCache& cache)
        : rms(cache.settings_.layers.size(),
              std::vector<double>(static_cast<std::size_t>(cache.first_token_.back()), 0.0)),
          answers(cache.pairs_.size()) {}

    std::vector<std::vector<double>> rms;  // per layer, per token
    std::vector<AnswerLogProbs> answers;   // per pair
  };

  std::vector<Passenger> board(const std::vector<ActivationCache*>& caches) {
    std::vector<Passenger> passengers;
    for (ActivationCache* cache : caches) {
      for (std::size_t g = 0; g < cache->groups_.size(); ++g) {
        if (is_mine(g)) {
          board_group(*cache, g, passengers);
        }
      }
    }
    return passengers;
  }

  void board_group(ActivationCache& cache, std::size_t group, std::vector<Passenger>& passengers) {
    for (const std::int64_t pair : cache.groups_[group]) {
      PackedPairs packed = pack_alike(cache.pairs_, {pair}, decoder_);
      at::Tensor hidden = decoder_.embed(packed.ids);
      passengers.push_back({&cache, pair, std::move(packed), std::move(hidden)});
    }
  }

  bool is_mine(std::size_t group) const {
    return static_cast<int>(group % static_cast<std::size_t>(ranks_.topology.dp())) ==
           ranks_.topology.dp_rank();
  }

  static std::string reference_phase(const ActivationCache& cache) {
    return fmt::format("reference of {} pairs, group", cache.pairs_.size());
  }

  // Without room for all pairs' cached activations, there is none for all pairs under way either.
  void stream_by_groups(const std::vector<ActivationCache*>& caches) {
    for (ActivationCache* cache : caches) {
      for (std::size_t g = 0; g < cache->groups_.size(); ++g) {
        progress_(reference_phase(*cache), static_cast<std::int64_t>(g) + 1,
                  static_cast<std::int64_t>(cache->groups_.size()));
        if (is_mine(g)) {
          std::vector<Passenger> passengers;
          board_group(*cache, g, passengers);
          stream(std::move(passengers));
        }
      }
    }
  }

  // Runs every pair through block after block to the head; keeps its output at the requested
  // layers.
  void stream(std::vector<Passenger> passengers) {
    const std::int64_t last = decoder_.config().blocks - 1;
    for (std::int64_t block = 0; block <= last; ++block) {
      if (keeps_all_) {
        progress_("prefix and reference, block", block + 1, last + 1);
        decoder_.load_blocks({block, block + 1});
      }
      const auto layer = std::find(layers_.begin(), layers_.end(), block);
      for (Passenger& passenger : passengers) {
        if (block == last) {
          score(passenger);  // the head needs the last block's output at the predicting rows only
        }
        if (block < last || layer != layers_.end()) {
          passenger.hidden =
              decoder_.run_blocks(passenger.hidden, {block, block + 1}, passenger.packed.layout);
        }
        if (layer != layers_.end()) {
          keep(passenger, block,
               found_[passenger.cache].rms[static_cast<std::size_t>(layer - layers_.begin())]);
        }
      }
      if (keeps_all_ && block <= layers_.front()) {
        decoder_.release_blocks({block, block + 1});
      }
    }
  }

  // Runs the last block and the head on the output of the block before.
  void score(const Passenger& passenger) {
    const at::Tensor output = decoder_.run_to_answers(
        passenger.hidden, decoder_.config().blocks - 1, passenger.packed.layout);
    found_[passenger.cache].answers[static_cast<std::size_t>(passenger.pair)] =
        score_output(decoder_, passenger.packed, output).answers.front();
  }

  void keep(const Passenger& passenger, std::int64_t layer, std::vector<double>& rms) {
    ActivationCache& cache = *passenger.cache;
    const Range rows = cache.rows_of(passenger.pair);
    const at::Tensor of_tokens = token_rms(passenger.hidden);
    std::copy_n(of_tokens.const_data_ptr<double>(), rows.size(), rms.begin() + rows.begin);
    if (cache.settings_.keep && !cache.at(layer).filled && ranks_.topology.tp_rank() == 0) {
      cache.at(layer)
          .store->activations()
          .narrow(0, rows.begin, rows.size())
          .copy_(passenger.hidden);
    }
  }

  // Exchanges what the replicas computed, and copies it to the other nodes.
  void share(ActivationCache& cache) {
    const Found& found = found_[&cache];
    for (std::size_t i = 0; i < cache.layers_.size(); ++i) {
      ActivationCache::Layer& entry = cache.layers_[i];
      if (entry.filled) {
        continue;
      }
      entry.median_rms = shared_median(found.rms[i], decoder_.device(), ranks_);
      if (cache.settings_.keep) {
        share_activations(cache, entry);
      }
    }
  }

  void share_activations(ActivationCache& cache, ActivationCache::Layer& entry) {
    ranks_.node->barrier();
    if (ranks_.node->size() == ranks_.world->size()) {
      return;
    }
    for (std::size_t g = 0; g < cache.groups_.size(); ++g) {
      exchange(cache, entry, g);
    }
    ranks_.node->barrier();
  }

  // Sends a group's rows from its replica to the others; on each node one rank writes them.
  void exchange(ActivationCache& cache, ActivationCache::Layer& entry, std::size_t group) {
    const Range rows{cache.rows_of(cache.groups_[group].front()).begin,
                     cache.rows_of(cache.groups_[group].back()).end};
    const at::Tensor here = entry.store->activations().narrow(0, rows.begin, rows.size());
    const at::Tensor moved =
        here.to(at::TensorOptions().dtype(decoder_.residual_type()).device(decoder_.device()),
                /*non_blocking=*/false, /*copy=*/true);
    ranks_.dp->broadcast(moved,
                         static_cast<int>(group % static_cast<std::size_t>(ranks_.topology.dp())));
    ranks_.tp->broadcast(moved, 0);
    if (ranks_.node->rank() == 0 && !(is_mine(group) && ranks_.topology.tp_rank() == 0)) {
      here.copy_(moved);
    }
  }

  void find_references(ActivationCache& cache) {
    const bool exact = decoder_.product_type() != at::kBFloat16 &&
                       (!cache.settings_.keep || cache.settings_.type != at::kBFloat16);
    std::vector<AnswerLogProbs>& streamed = found_[&cache].answers;
    share_rows(streamed, decoder_.device(), ranks_);
    for (ActivationCache::Layer& entry : cache.layers_) {
      if (!entry.filled) {
        entry.reference = exact ? streamed : find_reference(cache, entry.layer);
        require_finite(cache.pairs_, entry.reference);
      }
    }
  }

  // The very path that training takes, at v = 0.
  std::vector<AnswerLogProbs> find_reference(const ActivationCache& cache, std::int64_t layer) {
    const auto residual =
        at::TensorOptions().dtype(decoder_.residual_type()).device(decoder_.device());
    const auto progress = [&](std::int64_t done, std::int64_t total) {
      progress_(reference_phase(cache), done, total);
    };
    return cache.score({decoder_, ranks_, cache.settings_.group_size, progress}, layer,
                       at::zeros({decoder_.config().hidden}, residual), 0);
  }

  void finish(ActivationCache& cache) {
    for (ActivationCache::Layer& entry : cache.layers_) {
      if (std::exchange(entry.filled, true) || !cache.settings_.keep) {
        continue;
      }
      if (ranks_.node->rank() == 0) {
        double* values = entry.store->log_probs().mutable_data_ptr<double>();
        for (const AnswerLogProbs& pair : entry.reference) {
          *values++ = pair.chosen;
          *values++ = pair.rejected;
        }
        *entry.store->median_rms().mutable_data_ptr<double>() = entry.median_rms;
      }
      entry.store->commit(*ranks_.node);
    }
  }

  Decoder& decoder_;
  const std::vector<ActivationCache*>& caches_;
  const std::vector<std::int64_t>& layers_;
  bool keeps_all_;
  const Ranks& ranks_;
  const PassProgress& progress_;
  std::map<const ActivationCache*, Found> found_;
};

void fill_caches(Decoder& decoder, const std::vector<ActivationCache*>& caches, const Ranks& ranks,
                 const PassProgress& progress) {
  PrefixPass(decoder, caches, ranks, progress).run();
}

}  // namespace bipo
