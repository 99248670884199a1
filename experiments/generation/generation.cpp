#include "experiments/generation/generation.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <span>
#include <utility>

namespace bipo {
namespace {

// Rows of a cache that belong to one sequence, and how many of them are in use.
struct Region {
  Range rows;
  std::int64_t used = 0;
  std::vector<Range> context;  // rows of other regions that precede it

  // Takes the sequence's next `count` rows, as rows `first`... of a batch.
  CachedPart extend(std::int64_t first, std::int64_t count) {
    used += count;
    return {{first, first + count}, {rows.begin, rows.begin + used}, context};
  }

  // The row of a text that has ended: it attends to itself alone.
  CachedPart idle(std::int64_t row) const {
    return {{row, row + 1}, {rows.begin, rows.begin + 1}, {}};
  }
};

class Batch {
 public:
  Batch(const Decoder& decoder, const SteeringVectors& vectors,
        const std::vector<NumberedPrompt>& prompts, const GenerationSettings& settings,
        const GenerationHooks& hooks)
      : decoder_(decoder),
        vectors_(vectors),
        prompts_(prompts),
        settings_(settings),
        hooks_(hooks),
        layers_(vectors.layers()),
        texts_(prompts.size() * settings.multipliers.size()) {
    const std::int64_t blocks = decoder.config().blocks;
    const bool shares_all = settings.positions == SteeredPositions::kAnswer || layers_.empty();
    shared_ = {0, shares_all ? blocks : layers_.front() + 1};
    own_ = {shared_.end, blocks};
    lay_out();
  }

  std::optional<std::vector<GeneratedText>> run() {
    choose_tokens(run_prompts(), 0);
    for (std::int64_t step = 1; !is_done(); ++step) {
      if (hooks_.stops()) {
        return std::nullopt;
      }
      choose_tokens(run_step(), step);
    }
    return std::move(texts_);
  }

 private:
  std::int64_t settings() const { return static_cast<std::int64_t>(settings_.multipliers.size()); }
  std::int64_t rows() const { return static_cast<std::int64_t>(texts_.size()); }

  void lay_out() {
    std::int64_t shared_rows = 0;
    std::int64_t own_rows = 0;
    for (const NumberedPrompt& prompt : prompts_) {
      const auto length = static_cast<std::int64_t>(prompt.tokens.size());
      const std::int64_t limit =
          std::min(settings_.max_new_tokens, decoder_.config().context - length);
      const auto take = [](std::int64_t& next, std::int64_t count) {
        next += count;
        return Range{next - count, next};
      };
      // Prompt and text are separate regions in both caches, so that the order of sums over them
      // does not depend on the vectors' layers.
      prompt_regions_.push_back({take(shared_rows, length), 0, {}});
      for (std::int64_t s = 0; s < settings(); ++s) {
        limits_.push_back(limit);
        shared_regions_.push_back({take(shared_rows, limit), 0, {prompt_regions_.back().rows}});
        own_prompt_regions_.push_back({take(own_rows, length), 0, {}});
        own_regions_.push_back({take(own_rows, limit), 0, {own_prompt_regions_.back().rows}});
      }
    }
    shared_cache_ = decoder_.make_cache(shared_, shared_rows);
    own_cache_ = decoder_.make_cache(own_, own_rows);
    std::vector<at::Tensor> columns;
    for (const std::vector<double>& multipliers : settings_.multipliers) {
      columns.push_back(at::tensor(multipliers, at::kDouble).unsqueeze(1));
    }
    by_setting_ = at::cat(columns, 1).to(residual_options(decoder_));
    coefficients_ = by_setting_.repeat({1, static_cast<std::int64_t>(prompts_.size())});
  }

  // Runs `blocks` on the first one's input h, steered from there on.
  at::Tensor run_steered(const at::Tensor& h, Range blocks, const CachedLayout& layout,
                         const KeyValueCache& cache, const at::Tensor& coefficients) const {
    const auto run = [&](const at::Tensor& x, Range part) {
      return decoder_.run_cached(x, part, layout, cache);
    };
    const auto add = [&](const at::Tensor& x, std::int64_t layer) {
      return vectors_.add(x, layer, coefficients);
    };
    const ResidualStream steered = run_past_sites({h, blocks.begin}, layers_, add, run);
    return run(steered.hidden, {steered.next_block, blocks.end});
  }

  // Returns the last block's output at the last row of every sequence, [P S, D].
  at::Tensor run_prompts() {
    std::vector<at::Tensor> last;
    for (std::size_t p = 0; p < prompts_.size(); ++p) {
      const std::vector<TokenId>& tokens = prompts_[p].tokens;
      const auto length = static_cast<std::int64_t>(tokens.size());
      const at::Tensor ids = at::tensor(tokens, at::kLong).to(decoder_.device());
      const CachedLayout layout = decoder_.cached_layout({prompt_regions_[p].extend(0, length)});
      const at::Tensor h = decoder_.run_cached(decoder_.embed(ids), shared_, layout, shared_cache_);
      for (std::int64_t s = 0; s < settings(); ++s) {
        const std::size_t row = p * settings_.multipliers.size() + static_cast<std::size_t>(s);
        last.push_back(run_own(h, row, by_setting_.select(1, s)).narrow(0, length - 1, 1));
      }
    }
    return at::cat(last);
  }

  CachedLayout own_layout(const std::vector<CachedPart>& parts) const {
    return own_.size() > 0 ? decoder_.cached_layout(parts) : CachedLayout{};
  }

  // Runs the blocks after the shared ones for the rows of one prompt at one setting.
  at::Tensor run_own(const at::Tensor& h, std::size_t row, const at::Tensor& multipliers) {
    if (settings_.positions == SteeredPositions::kAnswer) {
      return h;
    }
    const std::int64_t length = h.size(0);
    const CachedLayout layout = own_layout({own_prompt_regions_[row].extend(0, length)});
    return run_steered(h, own_, layout, own_cache_, multipliers.unsqueeze(1).expand({-1, length}));
  }

  // Returns the same after one more token of every text.
  at::Tensor run_step() {
    std::vector<std::int64_t> ids;
    std::vector<CachedPart> shared_parts;
    std::vector<CachedPart> own_parts;
    for (std::int64_t row = 0; row < rows(); ++row) {
      const auto r = static_cast<std::size_t>(row);
      const bool grows = !ended(r);
      ids.push_back(grows ? texts_[r].tokens.back() : 0);
      shared_parts.push_back(grows ? shared_regions_[r].extend(row, 1)
                                   : shared_regions_[r].idle(row));
      own_parts.push_back(grows ? own_regions_[r].extend(row, 1) : own_regions_[r].idle(row));
    }
    const at::Tensor embedded = decoder_.embed(at::tensor(ids, at::kLong).to(decoder_.device()));
    const CachedLayout shared = decoder_.cached_layout(shared_parts);
    if (settings_.positions == SteeredPositions::kAnswer) {
      return run_steered(embedded, shared_, shared, shared_cache_, coefficients_);
    }
    return run_steered(decoder_.run_cached(embedded, shared_, shared, shared_cache_), own_,
                       own_layout(own_parts), own_cache_, coefficients_);
  }

  bool ended(std::size_t row) const {
    return texts_[row].stopped ||
           static_cast<std::int64_t>(texts_[row].tokens.size()) >= limits_[row];
  }

  bool is_done() const {
    for (std::size_t row = 0; row < texts_.size(); ++row) {
      if (!ended(row)) {
        return false;
      }
    }
    return true;
  }

  // All tp ranks have the same logits and choose the same tokens.
  void choose_tokens(const at::Tensor& output, std::int64_t step) {
    const at::Tensor logits = decoder_.next_token_logits(output).to(at::kCPU, at::kFloat);
    const at::Tensor normalisers = at::logsumexp(logits, {1});
    std::vector<TokenId> chosen(texts_.size());
    at::parallel_for(0, rows(), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        if (!ended(static_cast<std::size_t>(row))) {
          const auto& prompt = prompts_[static_cast<std::size_t>(row / settings())];
          std::span<const float> row_logits(logits.const_data_ptr<float>() + row * logits.size(1),
                                            static_cast<std::size_t>(logits.size(1)));
          std::vector<float> penalised;
          if (settings_.sampling.repetition_penalty != 1) {
            penalised.assign(row_logits.begin(), row_logits.end());
            penalise_repetition(penalised, prompt.tokens,
                                texts_[static_cast<std::size_t>(row)].tokens,
                                settings_.sampling.repetition_penalty);
            row_logits = penalised;
          }
          chosen[static_cast<std::size_t>(row)] = sample_token(
              row_logits, settings_.sampling,
              {static_cast<std::uint32_t>(prompt.number),
               static_cast<std::uint32_t>(row % settings()), static_cast<std::uint32_t>(step)});
        }
      }
    });
    for (std::int64_t row = 0; row < rows(); ++row) {
      const auto r = static_cast<std::size_t>(row);
      if (ended(r)) {
        continue;
      }
      const TokenId token = chosen[r];
      if (std::count(settings_.stop_tokens.begin(), settings_.stop_tokens.end(), token) > 0) {
        texts_[r].stopped = true;
        continue;
      }
      texts_[r].tokens.push_back(token);
      texts_[r].log_prob += double{logits.const_data_ptr<float>()[row * logits.size(1) + token]} -
                            normalisers.const_data_ptr<float>()[row];
      hooks_.on_token(row / settings(), row % settings(), token);
    }
  }

  const Decoder& decoder_;
  const SteeringVectors& vectors_;
  const std::vector<NumberedPrompt>& prompts_;
  const GenerationSettings& settings_;
  const GenerationHooks& hooks_;
  std::vector<std::int64_t> layers_;        // steered, ascending
  Range shared_;                            // blocks that compute a prompt once for all settings
  Range own_;                               // the other blocks
  std::vector<std::int64_t> limits_;        // [P S] tokens of a text
  std::vector<Region> prompt_regions_;      // [P] of the shared cache
  std::vector<Region> shared_regions_;      // [P S] of it: the texts
  std::vector<Region> own_prompt_regions_;  // [P S] of the other cache
  std::vector<Region> own_regions_;         // [P S] of it: the texts
  KeyValueCache shared_cache_;
  KeyValueCache own_cache_;
  at::Tensor by_setting_;             // [M, S]
  at::Tensor coefficients_;           // [M, P S]
  std::vector<GeneratedText> texts_;  // [P S]
};

}  // namespace

std::optional<std::vector<GeneratedText>> generate_batch(const Decoder& decoder,
                                                         const SteeringVectors& vectors,
                                                         const std::vector<NumberedPrompt>& prompts,
                                                         const GenerationSettings& settings,
                                                         const GenerationHooks& hooks) {
  const at::NoGradGuard no_grad;
  return Batch(decoder, vectors, prompts, settings, hooks).run();
}

std::uint64_t generation_cache_bytes(const ModelConfig& config, const Topology& topology,
                                     std::int64_t prompts, std::int64_t prompt_tokens,
                                     const GenerationSettings& settings) {
  const auto count = static_cast<std::int64_t>(settings.multipliers.size());
  const std::int64_t rows = count * (prompt_tokens + prompts * settings.max_new_tokens);
  return static_cast<std::uint64_t>(rows * config.blocks) *
         Decoder::cache_bytes_per_row(config, topology.tp(), topology.tp_rank());
}

std::vector<GeneratedText> gather_texts(const std::vector<GeneratedText>& mine,
                                        std::int64_t max_new_tokens, at::Device device,
                                        Communicator& dp) {
  // Replicas exchange tables of one size; a text is a row {1, stopped, log_prob, length,
  // tokens...}, its log_prob as the bits of a double.
  const at::Tensor most =
      at::tensor({static_cast<std::int64_t>(mine.size())}, at::kLong).to(device);
  dp.all_reduce(most, ReduceOp::kMax);
  const at::Tensor table = at::zeros({most.item<std::int64_t>(), max_new_tokens + 4}, at::kLong);
  for (std::size_t i = 0; i < mine.size(); ++i) {
    auto* cell =
        table.mutable_data_ptr<std::int64_t>() + static_cast<std::int64_t>(i) * table.size(1);
    *cell++ = 1;
    *cell++ = mine[i].stopped ? 1 : 0;
    *cell++ = std::bit_cast<std::int64_t>(mine[i].log_prob);
    *cell++ = static_cast<std::int64_t>(mine[i].tokens.size());
    std::copy(mine[i].tokens.begin(), mine[i].tokens.end(), cell);
  }
  const at::Tensor rows = dp.all_gather(table.to(device)).cpu().view({-1, table.size(1)});
  std::vector<GeneratedText> texts;
  for (std::int64_t row = 0; row < rows.size(0); ++row) {
    const auto* cell = rows.const_data_ptr<std::int64_t>() + row * rows.size(1);
    if (cell[0] == 1) {
      texts.push_back(
          {{cell + 4, cell + 4 + cell[3]}, std::bit_cast<double>(cell[2]), cell[1] == 1});
    }
  }
  return texts;
}

}  // namespace bipo
