#include "trainer/extraction/extraction_pass.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {
namespace {

// Pairs are cut into shares of consecutive pairs; one replica adds a share's differences in order.
// The number of shares depends on the number of pairs alone; it bounds the float64 vectors that are
// kept for each layer.
constexpr std::int64_t kMostShares = 256;

// Consecutive pairs that go through the model together, of one share or of several.
struct Pack {
  std::vector<std::int64_t> pairs;
  std::vector<std::int64_t> shares;  // of each
};

// Consecutive shares, with their packs, that one replica computes.
using Turn = std::vector<Pack>;

std::int64_t shares_of(std::int64_t pairs) {
  return std::min(pairs, kMostShares);
}

// Cuts pairs into turns, alike for any number of replicas.
class TurnMaker {
 public:
  // `tokens_of_pack`: at most, see fit_into_device_pack(); 0: pairs go one by one.
  TurnMaker(const std::vector<TokenPair>& pairs, std::int64_t tokens_of_pack)
      : tokens_(packed_sizes(pairs)), tokens_of_pack_(tokens_of_pack) {}

  // A turn has one share, or as many as are one pack; a share that is more is cut into packs.
  std::vector<Turn> make() const {
    std::vector<Turn> turns;
    for (std::int64_t share = 0; share < shares_of(count()); ++share) {
      if (turns.empty() || !are_a_pack({turns.back().front().pairs.front(), pairs_of(share).end})) {
        turns.emplace_back();
      }
      add_share(share, turns.back());
    }
    return turns;
  }

 private:
  std::int64_t count() const { return static_cast<std::int64_t>(tokens_.size()); }

  // Returns the pairs of a share.
  Range pairs_of(std::int64_t share) const {
    return {share * count() / shares_of(count()), (share + 1) * count() / shares_of(count())};
  }

  bool are_a_pack(Range pairs) const {
    const std::int64_t longest =
        *std::max_element(tokens_.begin() + pairs.begin, tokens_.begin() + pairs.end);
    return fit_into_device_pack(pairs.size(), longest, tokens_of_pack_);
  }

  void add_share(std::int64_t share, Turn& turn) const {
    const Range pairs = pairs_of(share);
    for (std::int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
      const bool has_room = !turn.empty() && are_a_pack({turn.back().pairs.front(), pair + 1});
      Pack& pack = has_room ? turn.back() : turn.emplace_back();
      pack.pairs.push_back(pair);
      pack.shares.push_back(share);
    }
  }

  std::vector<std::int64_t> tokens_;  // of each pair
  std::int64_t tokens_of_pack_;
};

// Returns the packs of a replica's turns; turns are dealt to the replicas one after another.
std::vector<Pack> packs_of_replica(const std::vector<TokenPair>& pairs, std::int64_t tokens_of_pack,
                                   const Topology& topology) {
  std::vector<Turn> turns = TurnMaker(pairs, tokens_of_pack).make();
  std::vector<Pack> packs;
  for (auto turn = static_cast<std::size_t>(topology.dp_rank()); turn < turns.size();
       turn += static_cast<std::size_t>(topology.dp())) {
    std::move(turns[turn].begin(), turns[turn].end(), std::back_inserter(packs));
  }
  return packs;
}

// The mean over the scored tokens of an answer's rows [N, D], which lack its last token.
at::Tensor mean_of_answer(const at::Tensor& rows, const ScoredTokens& scored) {
  if (scored.empty()) {
    return rows.mean(0);
  }
  std::vector<std::int64_t> counted;
  for (std::int64_t row = 0; row < rows.size(0); ++row) {
    if (scored[static_cast<std::size_t>(row)]) {
      counted.push_back(row);
    }
  }
  return rows.index_select(0, at::tensor(counted, at::kLong).to(rows.device())).mean(0);
}

class ExtractionPass {
 public:
  // `pairs`: each answer ends with a token that does not count.
  ExtractionPass(Decoder& decoder, const std::vector<TokenPair>& pairs,
                 const ExtractionSettings& settings, const MakeStatistics& method,
                 const Ranks& ranks, const PassProgress& progress)
      : decoder_(decoder),
        pairs_(pairs),
        method_(method),
        layers_(settings.layers),
        site_(settings.site),
        block_by_block_(settings.block_by_block),
        ranks_(ranks),
        progress_(progress),
        count_(static_cast<std::int64_t>(pairs.size())),
        first_token_(packed_offsets(pairs)),
        packs_(packs_of_replica(pairs, decoder.device().is_cpu() ? 0 : settings.device_pack,
                                ranks.topology)),
        found_(settings.layers.size()) {}

  std::vector<ExtractedDirection> run() {
    const at::NoGradGuard no_grad;
    decoder_.load_embedding();
    if (block_by_block_) {
      run_block_by_block();
    } else {
      run_pack_by_pack();
    }
    return std::move(results_);
  }

 private:
  struct Passenger {
    Pack pack;
    PackedPairs packed;
    std::vector<std::vector<std::int64_t>> rows;  // of the packed tokens, for each pair
    at::Tensor hidden;
  };

  // What this replica found at one layer.
  struct Found {
    std::unique_ptr<LayerStatistics> statistics;  // null before the first pair
    std::vector<double> rms;                      // of every token; 0 for those of other replicas
  };

  std::int64_t blocks() const { return layers_.back() + 1; }

  void run_block_by_block() {
    std::vector<Passenger> passengers;
    for (const Pack& pack : packs_) {
      passengers.push_back(board(pack));
    }
    decoder_.release_embedding();
    for (std::int64_t block = 0; block < blocks(); ++block) {
      progress_("pairs through the model, block", block + 1, blocks());
      decoder_.load_blocks({block, block + 1});
      for (Passenger& passenger : passengers) {
        pass(passenger, block);
      }
      decoder_.release_blocks({block, block + 1});
      if (const auto place = place_of(block); place < layers_.size()) {
        reduce(place);
      }
    }
  }

  void run_pack_by_pack() {
    decoder_.load_blocks({0, blocks()});
    for (const Pack& pack : packs_) {
      progress_("pairs through the model, pair", pack.pairs.back() + 1, count_);
      Passenger passenger = board(pack);
      for (std::int64_t block = 0; block < blocks(); ++block) {
        pass(passenger, block);
      }
    }
    decoder_.release_blocks({0, blocks()});
    decoder_.release_embedding();
    for (std::size_t place = 0; place < layers_.size(); ++place) {
      reduce(place);
    }
  }

  Passenger board(const Pack& pack) const {
    PackedPairs packed = pack_alike(pairs_, pack.pairs, decoder_);
    std::vector<std::vector<std::int64_t>> rows = rows_of_pairs(packed, pack.pairs);
    at::Tensor hidden = decoder_.embed(packed.ids);
    return {pack, std::move(packed), std::move(rows), std::move(hidden)};
  }

  void pass(Passenger& passenger, std::int64_t block) {
    at::Tensor activations;
    // In every block, so that a layer's last bits do not depend on which layers are asked for.
    const auto see = [&](const at::Tensor& output) {
      activations = output;
      return output;
    };
    const ChangeMlpOutput change = site_ == Site::kMlp ? ChangeMlpOutput(see) : nullptr;
    passenger.hidden =
        decoder_.run_blocks(passenger.hidden, {block, block + 1}, passenger.packed.layout, change);
    if (const auto place = place_of(block); place < layers_.size()) {
      record(passenger, site_ == Site::kMlp ? activations : passenger.hidden, place);
    }
  }

  // Returns the index of `block` among the requested layers, or their number.
  std::size_t place_of(std::int64_t block) const {
    return static_cast<std::size_t>(std::find(layers_.begin(), layers_.end(), block) -
                                    layers_.begin());
  }

  // The host reads all pairs' numbers at once.
  void record(const Passenger& passenger, const at::Tensor& activations, std::size_t place) {
    const Pack& pack = passenger.pack;
    std::vector<at::Tensor> means;
    for (std::size_t i = 0; i < pack.pairs.size(); ++i) {
      add_means(passenger, activations, i, means);
    }
    const at::Tensor of_answers = at::stack(means).cpu();
    const at::Tensor rms = token_rms(activations);
    const double* const of_row = rms.const_data_ptr<double>();
    LayerStatistics& statistics = statistics_of(place);
    std::vector<double>& found = found_[place].rms;
    found.resize(static_cast<std::size_t>(first_token_.back()));
    for (std::size_t i = 0; i < pack.pairs.size(); ++i) {
      const auto answer = static_cast<std::int64_t>(2 * i);
      statistics.add(pack.pairs[i], pack.shares[i], of_answers[answer], of_answers[answer + 1]);
      std::transform(passenger.rows[i].begin(), passenger.rows[i].end(),
                     found.begin() + first_token_[static_cast<std::size_t>(pack.pairs[i])],
                     [&](std::int64_t row) { return of_row[row]; });
    }
  }

  // Adds those of both answers, which follow each other in the pack:
  // [... | rest of the prompt | chosen | rejected | ...].
  void add_means(const Passenger& passenger, const at::Tensor& activations, std::size_t i,
                 std::vector<at::Tensor>& means) const {
    const TokenPair& pair = pairs_[static_cast<std::size_t>(passenger.pack.pairs[i])];
    const auto chosen = static_cast<std::int64_t>(pair.chosen.size()) - 1;
    const auto rejected = static_cast<std::int64_t>(pair.rejected.size()) - 1;
    const at::Tensor rows =
        activations.narrow(0, passenger.rows[i][pair.prompt.size()], chosen + rejected)
            .to(at::kDouble);
    means.push_back(mean_of_answer(rows.narrow(0, 0, chosen), pair.chosen_scored));
    means.push_back(mean_of_answer(rows.narrow(0, chosen, rejected), pair.rejected_scored));
  }

  LayerStatistics& statistics_of(std::size_t place) {
    Found& found = found_[place];
    if (!found.statistics) {
      found.statistics = method_({layers_[place], decoder_.config().hidden, count_,
                                  shares_of(count_), decoder_.device(), &ranks_});
    }
    return *found.statistics;
  }

  // Makes one layer's direction of what all replicas have gathered, and clears this replica's part.
  void reduce(std::size_t place) {
    statistics_of(place);  // a replica may have no pair
    Found found = std::exchange(found_[place], {});
    found.rms.resize(static_cast<std::size_t>(first_token_.back()));
    const double residual_unit = shared_median(std::move(found.rms), decoder_.device(), ranks_);
    // The tp ranks' activations may differ in the last bits; the direction must not.
    const at::Tensor agreed = found.statistics->direction(residual_unit).to(decoder_.device());
    ranks_.tp->broadcast(agreed, 0);
    const at::Tensor on_host = agreed.cpu();
    const double* values = on_host.const_data_ptr<double>();
    ExtractedDirection result{layers_[place],
                              {values, values + on_host.numel()},
                              residual_unit,
                              found.statistics->figure()};
    // Every rank holds the same values.
    if (!std::all_of(result.value.begin(), result.value.end(),
                     [](double x) { return std::isfinite(x); })) {
      throw AgreedFailure(
          fmt::format("the output of {}block {} is not finite; if the model overflows, try "
                      "--dtype fp32",
                      site_ == Site::kMlp ? "the MLP of " : "", result.layer),
          kExitFailure);
    }
    results_.push_back(std::move(result));
  }

  Decoder& decoder_;
  const std::vector<TokenPair>& pairs_;
  const MakeStatistics& method_;
  const std::vector<std::int64_t>& layers_;
  Site site_;
  bool block_by_block_;
  const Ranks& ranks_;
  const PassProgress& progress_;
  std::int64_t count_;                     // P
  std::vector<std::int64_t> first_token_;  // [P + 1] of each pair among all packed tokens
  std::vector<Pack> packs_;                // of this replica
  std::vector<Found> found_;               // by layer
  std::vector<ExtractedDirection> results_;
};

}  // namespace

std::vector<TokenPair> last_tokens_alone(std::vector<TokenPair> pairs, bool answers_end_with_eos) {
  const auto keep_last = [&](const std::vector<TokenId>& answer, ScoredTokens& scored) {
    const std::size_t text = answer.size() - (answers_end_with_eos ? 1 : 0);
    std::size_t last = text;  // as it stays where no token counts
    for (std::size_t i = 0; i < text; ++i) {
      last = scored.empty() || scored[i] ? i : last;
    }
    ScoredTokens alone(answer.size(), false);
    std::fill(alone.begin() + static_cast<std::ptrdiff_t>(text), alone.end(), true);
    if (last < text) {
      alone[last] = true;
    }
    scored = std::move(alone);
  };
  for (TokenPair& pair : pairs) {
    keep_last(pair.chosen, pair.chosen_scored);
    keep_last(pair.rejected, pair.rejected_scored);
  }
  return pairs;
}

std::vector<TokenPair> with_token_to_leave_out(std::vector<TokenPair> pairs) {
  for (TokenPair& pair : pairs) {
    pair.chosen.push_back(pair.chosen.back());
    pair.rejected.push_back(pair.rejected.back());
    for (ScoredTokens* scored : {&pair.chosen_scored, &pair.rejected_scored}) {
      if (!scored->empty()) {
        scored->push_back(true);
      }
    }
  }
  return pairs;
}

std::vector<std::vector<std::int64_t>> extraction_packs(const std::vector<TokenPair>& pairs,
                                                        std::int64_t device_pack,
                                                        const Topology& topology) {
  std::vector<std::vector<std::int64_t>> packs;
  for (Pack& pack : packs_of_replica(pairs, device_pack, topology)) {
    packs.push_back(std::move(pack.pairs));
  }
  return packs;
}

void require_answer_positions(const std::vector<TokenPair>& pairs, bool answers_end_with_eos) {
  const std::int64_t least = answers_end_with_eos ? 2 : 1;
  for (const TokenPair& pair : pairs) {
    const bool chosen = scored_count(pair.chosen_scored, pair.chosen.size()) < least;
    if (chosen || scored_count(pair.rejected_scored, pair.rejected.size()) < least) {
      throw UserError(
          fmt::format("{}: the {} answer has no token but the end of the sequence, so there is no "
                      "position to take the mean over; change or remove the row",
                      pair.where, chosen ? "chosen" : "rejected"));
    }
  }
}

std::uint64_t streamed_bytes(std::int64_t hidden, const std::vector<TokenPair>& pairs, int dp) {
  const std::int64_t tokens = packed_offsets(pairs).back();
  const auto replicas = static_cast<std::uint64_t>(dp);
  return (static_cast<std::uint64_t>(tokens) + replicas - 1) / replicas *
         static_cast<std::uint64_t>(hidden) * sizeof(float);
}

std::vector<ExtractedDirection> extract_directions(Decoder& decoder,
                                                   const std::vector<TokenPair>& pairs,
                                                   const ExtractionSettings& settings,
                                                   const MakeStatistics& method, const Ranks& ranks,
                                                   const PassProgress& progress) {
  require_answer_positions(pairs, settings.answers_end_with_eos);
  if (settings.answers_end_with_eos) {
    return ExtractionPass(decoder, pairs, settings, method, ranks, progress).run();
  }
  const std::vector<TokenPair> lengthened = with_token_to_leave_out(pairs);
  return ExtractionPass(decoder, lengthened, settings, method, ranks, progress).run();
}

}  // namespace bipo
