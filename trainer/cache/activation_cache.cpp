#include "trainer/cache/activation_cache.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "collectives/communicator.hpp"
#include "collectives/device.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "trainer/model/operators/upload.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {
namespace {

// Values from products of another kind have other last bits.
std::uint64_t layer_key(const CacheSettings& settings, std::int64_t layer, bool independent_rows,
                        std::optional<std::int64_t> device_pack, bool with_reference) {
  ContentHash hash;
  hash.add(settings.key);
  hash.add(static_cast<std::uint64_t>(independent_rows));
  hash.add(static_cast<std::uint64_t>(layer));
  hash.add(static_cast<std::uint64_t>(settings.type));
  hash.add(static_cast<std::uint64_t>(settings.group_size));
  if (!with_reference) {
    hash.add("without reference");
  }
  if (settings.site != Site::kBlock) {
    hash.add(to_string(settings.site));
  }
  if (device_pack) {
    hash.add(static_cast<std::uint64_t>(*device_pack));
  }
  return hash.value();
}

// Every rank holds the same values.
void require_finite(const std::vector<TokenPair>& pairs,
                    const std::vector<AnswerLogProbs>& reference) {
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    if (!std::isfinite(reference[p].chosen) || !std::isfinite(reference[p].rejected)) {
      throw AgreedFailure(
          fmt::format(
              "{}: the model's own log-probability is not finite (chosen {}, rejected {}); "
              "if the model overflows, try --dtype fp32; --check-weights looks for damage in its "
              "files",
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
      first_token_(packed_offsets(pairs)),
      independent_rows_(all_reduced(std::int64_t{decoder.has_independent_rows()}, ReduceOp::kMin,
                                    *ranks.world) == 1),
      has_device_packs_(all_reduced(std::int64_t{settings.keep && !decoder.device().is_cpu()},
                                    ReduceOp::kMin, *ranks.world) == 1),
      shares_(make_shares()) {
  const StoreShape shape{first_token_.back(), decoder.config().hidden,
                         static_cast<std::int64_t>(pairs.size()), settings.type};
  for (const std::int64_t layer : settings.layers) {
    Layer entry;
    entry.layer = layer;
    if (settings.keep) {
      entry.store = std::make_unique<ActivationStore>(shape, settings.directory, *ranks.node);
      if (!settings.directory.empty()) {
        read_file(entry, ranks);
      }
    }
    layers_.push_back(std::move(entry));
  }
}

std::uint64_t ActivationCache::bytes_needed(std::int64_t hidden,
                                            const std::vector<TokenPair>& pairs,
                                            at::ScalarType type) {
  return StoreShape{packed_offsets(pairs).back(), hidden, static_cast<std::int64_t>(pairs.size()),
                    type}
      .bytes();
}

bool ActivationCache::is_filled() const {
  return std::all_of(layers_.begin(), layers_.end(),
                     [](const Layer& layer) { return layer.filled; });
}

const ActivationCache::Layer& ActivationCache::at(std::int64_t layer) const {
  for (const Layer& entry : layers_) {
    if (entry.layer == layer) {
      return entry;
    }
  }
  throw BugError(fmt::format("layer {} is not in the activation cache", layer));
}

const std::vector<AnswerLogProbs>& ActivationCache::reference(std::int64_t layer) const {
  if (!settings_.reference) {
    throw BugError(fmt::format("the activation cache of layer {} has no reference", layer));
  }
  return at(layer).reference;
}

std::vector<std::vector<std::int64_t>> ActivationCache::make_shares() const {
  return has_device_packs_ ? device_packs(packed_sizes(pairs_), settings_.device_pack) : groups_;
}

Range ActivationCache::rows_of(std::int64_t pair) const {
  const auto index = static_cast<std::size_t>(pair);
  return {first_token_[index], first_token_[index + 1]};
}

// Where no reference is needed, a file with one serves as well; where packs are smaller, because
// the device has no room for the usual ones, what these gave does.  The file that is tried last is
// the one that is written.
void ActivationCache::read_file(Layer& layer, const Ranks& ranks) {
  std::vector<std::optional<std::int64_t>> packs;
  if (!has_device_packs_) {
    packs.emplace_back();
  } else {
    if (settings_.device_pack < kTokensPerDevicePack) {
      packs.emplace_back(kTokensPerDevicePack);
    }
    packs.emplace_back(settings_.device_pack);
  }
  for (const std::optional<std::int64_t>& pack : packs) {
    try_file(layer, /*with_reference=*/true, pack, ranks);
    if (!layer.filled && !settings_.reference) {
      try_file(layer, /*with_reference=*/false, pack, ranks);
    }
    if (layer.filled) {
      return;
    }
  }
}

// A file counts only if it is whole, and the same, for every rank of the world.
void ActivationCache::try_file(Layer& layer, bool with_reference,
                               std::optional<std::int64_t> device_pack, const Ranks& ranks) {
  const auto worst = [](FileFlaw flaw, Communicator& group) {
    return static_cast<FileFlaw>(
        all_reduced(static_cast<std::int64_t>(flaw), ReduceOp::kMax, group));
  };
  layer.file = std::make_unique<ActivationFile>(
      layer.store->shape(), settings_.directory,
      layer_key(settings_, layer.layer, independent_rows_, device_pack, with_reference),
      settings_.trusts_others);
  FileFlaw own = layer.file->flaw();
  FileFlaw agreed = worst(own, *ranks.world);
  if (agreed == FileFlaw::kNone) {
    const auto content = static_cast<std::int64_t>(layer.file->content());
    const bool is_same = all_reduced(content, ReduceOp::kMin, *ranks.world) ==
                         all_reduced(content, ReduceOp::kMax, *ranks.world);
    own = is_same ? layer.file->read(*layer.store, ranks.node->rank(), ranks.node->size())
                  : FileFlaw::kDiffers;
    agreed = worst(own, *ranks.world);
  }
  layer.filled = agreed == FileFlaw::kNone;
  if (layer.filled) {
    read_back(layer);
    return;
  }
  if (is_remarkable(agreed) && settings_.warn) {
    settings_.warn(
        fmt::format("{}: {}; it is removed if it can be, and what it should hold is computed again",
                    layer.file->path().string(), described(agreed)));
  }
  if (is_remarkable(worst(own, *ranks.node)) && ranks.node->rank() == 0) {
    layer.file->remove();
  }
}

// Returns the same on every rank.
std::optional<WriteProblem> ActivationCache::write_file(const Layer& layer,
                                                        const Ranks& ranks) const {
  std::int64_t code = 0;
  if (ranks.node->rank() == 0) {
    if (const auto problem = layer.file->write(*layer.store)) {
      code = problem->code();
    }
  }
  code = all_reduced(code, ReduceOp::kMax, *ranks.world);
  return code == 0 ? std::nullopt : std::optional(WriteProblem::from_code(code));
}

void ActivationCache::read_back(Layer& layer) {
  const double* number = layer.store->numbers();
  for (std::size_t p = 0; p < pairs_.size(); ++p) {
    if (settings_.reference) {
      layer.reference.push_back({number[0], number[1]});
    }
    number += 2;
  }
  layer.median_rms = *number;
}

at::Tensor ActivationCache::rows_on_device(const Decoder& decoder, std::int64_t layer) const {
  const c10::Device device = decoder.device();
  if (device.is_cpu() || !settings_.keep || settings_.place == ActivationPlace::kHost) {
    return {};
  }
  const at::Tensor& rows = at(layer).store->activations();
  release_unused_device_memory(device);
  const std::uint64_t free = free_device_memory(device);
  if (settings_.place == ActivationPlace::kDevice && rows.nbytes() > free) {
    throw UserError(fmt::format(
        "--cache-device device: the activations take {} bytes, and the device has {} left; use "
        "--cache-device auto, or --cache-dtype bf16",
        rows.nbytes(), free));
  }
  // The rest is for the work on a micro-batch.
  const std::uint64_t room = std::min(free / 2, free - std::min(free, settings_.work_bytes));
  const bool fits = settings_.place == ActivationPlace::kDevice || rows.nbytes() <= room;
  return fits ? rows.to(device) : at::Tensor();
}

std::vector<std::int64_t> ActivationCache::kept_rows(const PackedPairs& packed) const {
  std::vector<std::int64_t> rows(packed.pair_of_token.size());
  for (std::size_t t = 0; t < rows.size(); ++t) {
    rows[t] = rows_of(packed.pair_of_token[t]).begin + packed.offset_of_token[t];
  }
  return rows;
}

at::Tensor ActivationCache::activations(const Decoder& decoder, const PackedPairs& packed,
                                        std::int64_t layer) const {
  if (settings_.keep) {
    const at::Tensor kept =
        at(layer).store->activations().index_select(0, at::tensor(kept_rows(packed), at::kLong));
    // In the kept type, which has fewer bytes where it is narrower.
    return uploaded(kept, kept.options().device(decoder.device())).to(decoder.residual_type());
  }
  const std::int64_t last = SteeredPlace{layer, settings_.site}.blocks_before() - 1;
  if (independent_rows_) {
    return run_prefix(decoder, packed, last);
  }
  std::vector<std::int64_t> rows(packed.pair_of_token.size());
  std::map<std::int64_t, std::int64_t> first_row;  // of each pair among the rows computed here
  std::vector<at::Tensor> parts;
  std::int64_t next = 0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    const std::int64_t pair = packed.pair_of_token[t];
    const auto [place, is_new] = first_row.try_emplace(pair, next);
    if (is_new) {
      parts.push_back(run_prefix(decoder, pack_alike(pairs_, {pair}, decoder), last));
      next += parts.back().size(0);
    }
    rows[t] = place->second + packed.offset_of_token[t];
  }
  return at::cat(parts).index_select(0, at::tensor(rows, at::kLong).to(decoder.device()));
}

std::vector<AnswerLogProbs> ActivationCache::score(const ScoringContext& context,
                                                   const SteeredLayers& layers,
                                                   const at::Tensor& vector, double coefficient,
                                                   const SteeredPositions& positions,
                                                   std::vector<AnswerLogProbs>* complements) const {
  const at::NoGradGuard no_grad;
  std::vector<AnswerLogProbs> answers(pairs_.size());
  std::vector<AnswerLogProbs> others(complements == nullptr ? 0 : pairs_.size());
  const auto score_group = [&](const std::vector<std::int64_t>& group) {
    const PackedPairs packed = pack_alike(pairs_, group, context.decoder, positions);
    at::Tensor coefficients = at::full({1, packed.tokens()}, coefficient, vector.options());
    if (positions != SteeredPositions::kAll) {
      coefficients = coefficients * steered_mask(packed, context.decoder);
    }
    const PairScores scores =
        score_pairs(context.decoder, packed, activations(context.decoder, packed, layers.lowest()),
                    {layers, coefficients, vector.unsqueeze(0)});
    for (std::size_t i = 0; i < group.size(); ++i) {
      answers[static_cast<std::size_t>(group[i])] = scores.answers[i];
    }
    if (complements != nullptr) {
      const std::vector<AnswerLogProbs> sums = complement_sums(packed, scores.target_log_probs);
      for (std::size_t i = 0; i < group.size(); ++i) {
        others[static_cast<std::size_t>(group[i])] = sums[i];
      }
    }
  };
  for_each_group(context, static_cast<std::int64_t>(pairs_.size()), score_group);
  share_rows(answers, context.decoder.device(), context.ranks);
  if (complements != nullptr) {
    share_rows(others, context.decoder.device(), context.ranks);
    *complements = std::move(others);
  }
  return answers;
}

std::vector<double> median_rms_of_layers(const Decoder& decoder, const ActivationCache& cache,
                                         const SteeredLayers& layers, const Ranks& ranks) {
  constexpr std::int64_t kMeasuredPairs = 64;
  std::vector<double> medians{cache.median_rms(layers.lowest())};
  if (layers.count() == 1) {
    return medians;
  }
  const at::NoGradGuard no_grad;
  const std::vector<TokenPair>& pairs = cache.pairs();
  const std::int64_t measured = std::min(static_cast<std::int64_t>(pairs.size()), kMeasuredPairs);
  const std::vector<std::int64_t> first_token = packed_offsets(pairs);
  const std::vector<SteeredPlace> places = layers.places();
  std::vector<std::vector<double>> rms(places.size(),
                                       std::vector<double>(static_cast<std::size_t>(
                                           first_token[static_cast<std::size_t>(measured)])));
  // So that the size of a run's batches does not matter.
  const ScoringContext pair_by_pair{decoder, ranks, /*group_size=*/1, /*progress=*/{}};
  for_each_group(pair_by_pair, measured, [&](const std::vector<std::int64_t>& group) {
    const PackedPairs packed = pack_alike(pairs, group, decoder);
    at::Tensor h = cache.activations(decoder, packed, layers.lowest());
    for (std::size_t s = 1; s < places.size(); ++s) {
      h = decoder.run_blocks(h, {places[s - 1].blocks_before(), places[s].blocks_before()},
                             packed.layout);
      const at::Tensor of_tokens = token_rms(h);
      const double* const of_token = of_tokens.const_data_ptr<double>();
      for (std::size_t t = 0; t < packed.pair_of_token.size(); ++t) {
        rms[s][static_cast<std::size_t>(
            first_token[static_cast<std::size_t>(packed.pair_of_token[t])] +
            packed.offset_of_token[t])] = of_token[t];
      }
    }
  });
  for (std::size_t s = 1; s < places.size(); ++s) {
    medians.push_back(shared_median(std::move(rms[s]), decoder.device(), ranks));
  }
  return medians;
}

// One pass over the data of several caches for the same layers.
class PrefixPass {
 public:
  PrefixPass(Decoder& decoder, const std::vector<ActivationCache*>& caches, const Ranks& ranks,
             const PassProgress& progress)
      : decoder_(decoder),
        layers_(caches.front()->settings_.layers),
        site_(caches.front()->settings_.site),
        first_(blocks_before(layers_.front())),
        keeps_all_(std::all_of(caches.begin(), caches.end(),
                               [](const auto* cache) { return cache->keeps_activations(); })),
        ranks_(ranks),
        progress_(progress) {
    for (ActivationCache* cache : caches) {
      if (!cache->is_filled()) {
        tasks_.emplace_back(*cache);
      }
    }
    loads_by_block_ = keeps_all_ && (weights_exceed_pairs() || !holds_all_blocks());
    portion_bytes_ = choose_portion();
  }

  void run() {
    const at::NoGradGuard no_grad;
    const std::int64_t blocks = decoder_.config().blocks;
    if (!keeps_all_) {
      decoder_.load_embedding();
      decoder_.load_blocks({0, blocks});
      for (Task& task : tasks_) {
        stream_by_groups(task);
      }
    } else if (!tasks_.empty()) {
      decoder_.load_embedding();
      if (loads_by_block_) {
        stream_by_blocks();
      } else {
        decoder_.load_blocks({0, blocks});
        for (Task& task : tasks_) {
          stream_by_groups(task);
        }
        decoder_.release_blocks({0, first_});
      }
      decoder_.release_embedding();
    }
    decoder_.load_blocks({first_, blocks});
    for (Task& task : tasks_) {
      share(task);
      for (ActivationCache::Layer& layer : task.cache.layers_) {
        if (!layer.filled) {
          find_reference(task, layer);
          finish(task.cache, layer);
        }
      }
    }
  }

 private:
  // A cache to be filled, and what this replica found of its pairs; 0 for those of other replicas.
  struct Task {
    explicit Task(ActivationCache& empty)
        : cache(empty),
          rms(cache.settings_.layers.size(),
              std::vector<double>(static_cast<std::size_t>(cache.first_token_.back()), 0.0)),
          answers(cache.pairs_.size()) {}

    ActivationCache& cache;
    std::vector<std::vector<double>> rms;  // per layer, per token
    std::vector<AnswerLogProbs> answers;   // per pair
  };

  // Pairs that this replica computes together.
  struct Passenger {
    Task& task;
    std::vector<std::int64_t> pairs;  // ascending
    PackedPairs packed;
    std::vector<std::vector<std::int64_t>> rows;  // of the pack, for each pair
    at::Tensor hidden;
  };

  // Whether the blocks that block-wise loading never holds at once are larger than the pairs under
  // way, which it all holds.  The same on every rank.
  bool weights_exceed_pairs() const {
    const auto bytes = [&](Range blocks) {
      return static_cast<double>(Decoder::weight_bytes(decoder_.config(), ranks_.topology.tp(), 0,
                                                       decoder_.product_type(), decoder_.device(),
                                                       blocks, /*embedding=*/false));
    };
    double tokens = 0;
    for (const Task& task : tasks_) {
      tokens += static_cast<double>(task.cache.first_token_.back());
    }
    const auto of_token = static_cast<double>(decoder_.config().hidden) * sizeof(float);
    return bytes({0, std::max<std::int64_t>(0, first_ - 1)}) - bytes({0, 0}) >
           tokens / ranks_.topology.dp() * of_token;
  }

  std::uint64_t bytes_of_blocks(Range blocks, bool embedding) const {
    return Decoder::weight_bytes(decoder_.config(), ranks_.topology.tp(), ranks_.topology.tp_rank(),
                                 decoder_.product_type(), decoder_.device(), blocks, embedding);
  }

  // Returns the bytes that the device has left beside the head and `more` bytes when `blocks` and
  // the embedding are loaded; the least of all ranks.
  std::uint64_t left_beside(Range blocks, std::uint64_t more = 0) const {
    const std::uint64_t free = free_device_memory(decoder_.device());
    const std::uint64_t taken = bytes_of_blocks(blocks, /*embedding=*/true) -
                                bytes_of_blocks({0, 0}, /*embedding=*/false) + more;
    return all_reduced(free - std::min(free, taken), ReduceOp::kMin, *ranks_.world);
  }

  // Returns what the work on a pack certainly takes on this rank.
  std::uint64_t pack_bytes() const {
    std::uint64_t most = 0;
    for (const Task& task : tasks_) {
      most = std::max(most, task.cache.settings_.pack_bytes);
    }
    return most;
  }

  // Whether the device has room for the whole model and for a pack, in as much again as a tenth of
  // the model, or in what it certainly takes.  In host memory the caller has seen to that.
  bool holds_all_blocks() const {
    const Range all = {0, decoder_.config().blocks};
    return decoder_.device().is_cpu() ||
           left_beside(all, std::max(bytes_of_blocks(all, true) / 10, pack_bytes())) > 0;
  }

  // Returns the bytes that the pairs under way may take: half of what is left beside the blocks
  // that stay and two below; the other half is for the work on a pack, which gets more where it
  // certainly takes more.
  std::uint64_t choose_portion() const {
    if (decoder_.device().is_cpu()) {
      return std::numeric_limits<std::uint64_t>::max();
    }
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (const std::int64_t below : {1, 2}) {
      const std::int64_t first = std::max<std::int64_t>(0, first_ - below);
      const Range blocks = {first, decoder_.config().blocks};
      least = std::min({least, left_beside(blocks) / 2, left_beside(blocks, pack_bytes())});
    }
    return least;
  }

  bool is_mine(std::size_t share) const {
    return static_cast<int>(share % static_cast<std::size_t>(ranks_.topology.dp())) ==
           ranks_.topology.dp_rank();
  }

  // Returns this replica's pairs, each entry packed together: on an accelerator its shares; where a
  // row's bits do not depend on its neighbours, groups up to kTokensPerPack tokens; else every pair
  // by itself.
  std::vector<std::vector<std::int64_t>> packs_of(const ActivationCache& cache) const {
    std::vector<std::vector<std::int64_t>> packs;
    std::int64_t tokens = kTokensPerPack;  // of the last pack: full
    for (std::size_t s = 0; s < cache.shares_.size(); ++s) {
      if (!is_mine(s)) {
        continue;
      }
      if (cache.has_device_packs_) {
        packs.push_back(cache.shares_[s]);
        continue;
      }
      for (const std::int64_t pair : cache.shares_[s]) {
        if (!cache.independent_rows_ || tokens >= kTokensPerPack) {
          packs.emplace_back();
          tokens = 0;
        }
        packs.back().push_back(pair);
        tokens += cache.rows_of(pair).size();
      }
    }
    return packs;
  }

  void board(Task& task, std::vector<std::int64_t> pairs,
             std::vector<Passenger>& passengers) const {
    PackedPairs packed = pack_alike(task.cache.pairs_, pairs, decoder_);
    std::vector<std::vector<std::int64_t>> rows = rows_of_pairs(packed, pairs);
    at::Tensor hidden = decoder_.embed(packed.ids);
    passengers.push_back(
        {task, std::move(pairs), std::move(packed), std::move(rows), std::move(hidden)});
  }

  // All pairs through one block after the other, as many at a time as there is room for.
  void stream_by_blocks() {
    std::vector<Passenger> passengers;
    std::uint64_t bytes = 0;
    for (Task& task : tasks_) {
      for (std::vector<std::int64_t>& pairs : packs_of(task.cache)) {
        board(task, std::move(pairs), passengers);
        bytes += passengers.back().hidden.nbytes() + bytes_of(passengers.back().packed.layout);
        if (bytes >= portion_bytes_) {
          stream(std::exchange(passengers, {}));
          bytes = 0;
        }
      }
    }
    if (!passengers.empty()) {
      stream(std::move(passengers));
    }
  }

  static std::string reference_phase(const ActivationCache& cache) {
    return fmt::format("{} of {} pairs, group",
                       cache.settings_.reference ? "reference" : "residual stream",
                       cache.pairs_.size());
  }

  std::string phase_of(const ActivationCache& cache) const {
    if (!keeps_all_) {
      return reference_phase(cache);
    }
    return cache.settings_.reference ? "prefix and reference, group" : "prefix, group";
  }

  // Where all pairs under way take more room than the blocks, or there is none for their cached
  // activations.
  void stream_by_groups(Task& task) {
    std::vector<std::vector<std::int64_t>> packs = packs_of(task.cache);
    for (std::size_t g = 0; g < packs.size(); ++g) {
      progress_(phase_of(task.cache), static_cast<std::int64_t>(g) + 1,
                static_cast<std::int64_t>(packs.size()));
      std::vector<Passenger> passengers;
      board(task, std::move(packs[g]), passengers);
      stream(std::move(passengers));
    }
  }

  // Returns the blocks that run before the activations of `layer` are there.
  std::int64_t blocks_before(std::int64_t layer) const {
    return SteeredPlace{layer, site_}.blocks_before();
  }

  // Returns the index of the requested layer whose activations are there after so many blocks, or
  // their number.
  std::size_t layer_after(std::int64_t blocks) const {
    const auto found = std::find_if(layers_.begin(), layers_.end(), [&](std::int64_t layer) {
      return blocks_before(layer) == blocks;
    });
    return static_cast<std::size_t>(found - layers_.begin());
  }

  // Runs every pair through block after block to the head; keeps its activations of the requested
  // layers.
  void stream(std::vector<Passenger> passengers) {
    const std::int64_t last = decoder_.config().blocks - 1;
    const bool needs_all =
        std::any_of(passengers.begin(), passengers.end(),
                    [](const Passenger& p) { return p.task.cache.settings_.reference; });
    const std::int64_t end_of_kept = blocks_before(layers_.back());
    const std::int64_t end = needs_all ? last + 1 : end_of_kept;
    for (const Passenger& passenger : passengers) {
      keep(passenger, layer_after(0));
    }
    for (std::int64_t block = 0; block < end; ++block) {
      if (loads_by_block_) {
        progress_(needs_all ? "prefix and reference, block" : "prefix, block", block + 1, end);
        decoder_.load_blocks({block, block + 1});
      }
      const std::size_t layer = layer_after(block + 1);
      for (Passenger& passenger : passengers) {
        const bool wants_reference = passenger.task.cache.settings_.reference;
        if (!wants_reference && block >= end_of_kept) {
          continue;
        }
        if (block == last && wants_reference) {
          score(passenger);  // the head needs the last block's output at the predicting rows only
        }
        if (block < last || layer < layers_.size()) {
          passenger.hidden =
              decoder_.run_blocks(passenger.hidden, {block, block + 1}, passenger.packed.layout);
        }
        keep(passenger, layer);
      }
      if (loads_by_block_ && block < first_) {
        decoder_.release_blocks({block, block + 1});
      }
    }
  }

  // Runs the last block and the head on the output of the block before.
  void score(const Passenger& passenger) const {
    const at::Tensor output = decoder_.run_to_answers(
        passenger.hidden, decoder_.config().blocks - 1, passenger.packed.layout);
    const std::vector<AnswerLogProbs> answers =
        score_output(decoder_, passenger.packed, output).answers;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      passenger.task.answers[static_cast<std::size_t>(passenger.pairs[i])] = answers[i];
    }
  }

  // Keeps the activations of the requested layer of the index `place`, if there is one.
  void keep(const Passenger& passenger, std::size_t place) const {
    if (place == layers_.size()) {
      return;
    }
    const ActivationCache& cache = passenger.task.cache;
    const ActivationCache::Layer& entry = cache.at(layers_[place]);
    std::vector<double>& rms = passenger.task.rms[place];
    const bool stores = cache.settings_.keep && !entry.filled && ranks_.topology.tp_rank() == 0;
    const at::Tensor of_tokens = token_rms(passenger.hidden);
    const double* of_token = of_tokens.const_data_ptr<double>();
    // One copy from a device for all pairs.
    const at::Tensor on_host =
        stores ? passenger.hidden.to(cache.settings_.type).to(at::kCPU) : at::Tensor();
    for (std::size_t i = 0; i < passenger.pairs.size(); ++i) {
      const std::vector<std::int64_t>& rows = passenger.rows[i];
      const Range places = cache.rows_of(passenger.pairs[i]);
      for (std::size_t t = 0; t < rows.size(); ++t) {
        rms[static_cast<std::size_t>(places.begin) + t] = of_token[rows[t]];
      }
      if (stores) {
        entry.store->activations()
            .narrow(0, places.begin, places.size())
            .copy_(on_host.index_select(0, at::tensor(rows, at::kLong)));
      }
    }
  }

  // Exchanges what the replicas computed, and copies it to the other nodes.
  void share(Task& task) const {
    ActivationCache& cache = task.cache;
    for (std::size_t i = 0; i < cache.layers_.size(); ++i) {
      ActivationCache::Layer& entry = cache.layers_[i];
      if (!entry.filled) {
        entry.median_rms = shared_median(std::move(task.rms[i]), decoder_.device(), ranks_);
        if (cache.settings_.keep) {
          share_activations(cache, entry);
        }
      }
    }
    if (cache.settings_.reference) {
      share_rows(task.answers, decoder_.device(), ranks_);
    }
  }

  // Where the ranks have several nodes, sends every share's rows from its replica to the others; on
  // each node one rank writes them.
  void share_activations(const ActivationCache& cache, const ActivationCache::Layer& entry) const {
    ranks_.node->barrier();
    if (ranks_.node->size() == ranks_.world->size()) {
      return;
    }
    const auto replicas = static_cast<std::size_t>(ranks_.topology.dp());
    for (std::size_t s = 0; s < cache.shares_.size(); ++s) {
      const std::int64_t first = cache.rows_of(cache.shares_[s].front()).begin;
      const std::int64_t end = cache.rows_of(cache.shares_[s].back()).end;
      const at::Tensor here = entry.store->activations().narrow(0, first, end - first);
      const at::Tensor moved =
          here.to(residual_options(decoder_), /*non_blocking=*/false, /*copy=*/true);
      ranks_.dp->broadcast(moved, static_cast<int>(s % replicas));
      ranks_.tp->broadcast(moved, 0);
      if (ranks_.node->rank() == 0 && !(is_mine(s) && ranks_.topology.tp_rank() == 0)) {
        here.copy_(moved);
      }
    }
    ranks_.node->barrier();
  }

  void find_reference(const Task& task, ActivationCache::Layer& layer) const {
    const ActivationCache& cache = task.cache;
    if (!cache.settings_.reference) {
      return;
    }
    // A pass that changes what an MLP returns adds in another order than one without a change.  (So
    // do those of higher layers that are trained jointly with this one, which is left to rounding.)
    const bool same_path = decoder_.product_type() != at::kBFloat16 ||
                           (cache.independent_rows_ && site_ == Site::kBlock);
    const bool exact =
        same_path && (!cache.settings_.keep || cache.settings_.type != at::kBFloat16);
    layer.reference = exact ? task.answers : score_reference(cache, layer.layer);
    require_finite(cache.pairs_, layer.reference);
  }

  // The very path that training takes, at v = 0.
  std::vector<AnswerLogProbs> score_reference(const ActivationCache& cache,
                                              std::int64_t layer) const {
    const auto progress = [&](std::int64_t done, std::int64_t total) {
      progress_(reference_phase(cache), done, total);
    };
    return cache.score({decoder_, ranks_, cache.settings_.group_size, progress},
                       SteeredLayers(layer).at(site_),
                       at::zeros({decoder_.config().hidden}, residual_options(decoder_)), 0);
  }

  void finish(const ActivationCache& cache, ActivationCache::Layer& layer) {
    layer.filled = true;
    if (!cache.settings_.keep) {
      return;
    }
    if (ranks_.node->rank() == 0) {
      double* number = layer.store->numbers();
      const auto count = 2 * static_cast<std::ptrdiff_t>(cache.pairs_.size());
      if (cache.settings_.reference) {
        for (const AnswerLogProbs& pair : layer.reference) {
          *number++ = pair.chosen;
          *number++ = pair.rejected;
        }
      } else {
        number = std::fill_n(number, count, std::numeric_limits<double>::quiet_NaN());
      }
      *number = layer.median_rms;
    }
    if (layer.file == nullptr) {
      return;
    }
    const auto problem = cache.write_file(layer, ranks_);
    if (problem && !std::exchange(has_warned_, true) && cache.settings_.warn) {
      cache.settings_.warn(fmt::format(
          "--cache-dir {}: activations cannot be kept there ({}); this run goes on with those in "
          "memory, and the next one computes them again: make room there, or name a directory of "
          "your own",
          cache.settings_.directory.string(), problem->described()));
    }
  }

  Decoder& decoder_;
  const std::vector<std::int64_t>& layers_;
  Site site_;
  std::int64_t first_;  // block that the steered suffix of the lowest layer begins with
  bool keeps_all_;
  bool loads_by_block_ = false;      // a portion goes through a block before the next one is loaded
  std::uint64_t portion_bytes_ = 0;  // that the pairs of a portion may take, by one pack exceeded
  const Ranks& ranks_;
  const PassProgress& progress_;
  std::vector<Task> tasks_;
  bool has_warned_ = false;  // of files; all mostly fail alike
};

void fill_caches(Decoder& decoder, const std::vector<ActivationCache*>& caches, const Ranks& ranks,
                 const PassProgress& progress) {
  PrefixPass(decoder, caches, ranks, progress).run();
}

}  // namespace bipo
