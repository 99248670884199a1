#include "trainer/passes/continuation_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "collectives/session.hpp"
#include "trainer/passes/packing.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

// [T] of the residual type: 1 where a row is steered.
at::Tensor steered_rows(const Decoder& decoder, const PackedAnswers& packed,
                        SteeredPositions positions) {
  const auto options = at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
  if (positions == SteeredPositions::kAll) {
    return at::ones({packed.tokens()}, options);
  }
  const at::Tensor rows = at::tensor(packed.rows_of_answers, at::kLong).to(decoder.device());
  return at::zeros({packed.tokens()}, options).index_fill_(0, rows, 1);
}

// A packed batch under many settings: runs the blocks up to the lowest steered one once, the others
// for each setting.  All but `positions` must outlive the pass.
class SteeredPass {
 public:
  // Collective over: tp
  SteeredPass(const Decoder& decoder, const SteeringVectors& vectors, const PackedAnswers& packed,
              SteeredPositions positions)
      : decoder_(decoder),
        vectors_(vectors),
        packed_(packed),
        layers_(vectors.layers()),
        mask_(steered_rows(decoder, packed, positions)) {
    const std::int64_t blocks = layers_.empty() ? 0 : layers_.front() + 1;
    prefix_ = {decoder.run_blocks(decoder.embed(packed.ids), {0, blocks}, packed.layout), blocks};
  }

  // The last block's output [U, D] or [T, D] under one coefficient for each vector [M]; all zeros
  // give the model's own numbers.  Collective over: tp
  at::Tensor to_answers(const std::vector<double>& coefficients) const {
    const ResidualStream state = steered(coefficients);
    return decoder_.run_to_answers(state.hidden, state.next_block, packed_.layout);
  }
  at::Tensor to_all(const std::vector<double>& coefficients) const {
    const ResidualStream state = steered(coefficients);
    return decoder_.run_blocks(state.hidden, {state.next_block, decoder_.config().blocks},
                               packed_.layout);
  }

 private:
  ResidualStream steered(const std::vector<double>& coefficients) const {
    const at::Tensor of_rows =
        at::outer(at::tensor(coefficients, at::kDouble).to(mask_.options()), mask_);
    return run_past_sites(
        prefix_, layers_,
        [&](const at::Tensor& h, std::int64_t layer) { return vectors_.add(h, layer, of_rows); },
        [&](const at::Tensor& h, Range blocks) {
          return decoder_.run_blocks(h, blocks, packed_.layout);
        });
  }

  const Decoder& decoder_;
  const SteeringVectors& vectors_;
  const PackedAnswers& packed_;
  std::vector<std::int64_t> layers_;
  at::Tensor mask_;
  ResidualStream prefix_;  // output of the lowest steered block, or the embedding
};

// Every rank holds the same values.
void require_finite(double value, const char* what, const std::string& where,
                    const std::vector<double>& coefficients) {
  if (!std::isfinite(value)) {
    throw AgreedFailure(fmt::format("{}: {} is {} with coefficients ({}) on the vectors; use "
                                    "smaller multipliers, or --dtype fp32",
                                    where, what, value, fmt::join(coefficients, ", ")),
                        kExitFailure);
  }
}

// Prompts side by side: no tree is shared, so that each one's rows follow one another.  The answer
// of one token, which takes no row, makes the last row one that predicts.
PackedAnswers pack_prompts(const std::vector<PromptTokens>& prompts,
                           const std::vector<std::int64_t>& group, const Decoder& decoder) {
  std::vector<Continuations> items;
  std::vector<PackItem> trees;
  for (const std::int64_t index : group) {
    const PromptTokens& prompt = prompts[static_cast<std::size_t>(index)];
    const auto place = static_cast<std::int64_t>(items.size());
    trees.push_back({place, place});
    items.push_back({prompt.ids, {{prompt.ids.back()}}, prompt.where});
  }
  return pack_continuations(items, trees, decoder);
}

// [S, T]
at::Tensor divergences(const Decoder& decoder, const PackedAnswers& packed,
                       const SteeringVectors& vectors,
                       const std::vector<std::vector<double>>& settings) {
  const SteeredPass pass(decoder, vectors, packed, SteeredPositions::kAll);
  std::vector<at::Tensor> steered;
  for (const std::vector<double>& coefficients : settings) {
    steered.push_back(pass.to_all(coefficients));
  }
  const std::vector<double> zeros(static_cast<std::size_t>(vectors.count()), 0.0);
  return decoder.next_token_divergences(pass.to_all(zeros), steered);
}

}  // namespace

ContinuationScores score_continuations(const ScoringContext& context,
                                       const std::vector<Continuations>& items,
                                       const SteeringVectors& vectors,
                                       const SteeringSettings& settings) {
  const at::NoGradGuard no_grad;
  const std::size_t count = settings.coefficients.size();
  if (items.empty() || count == 0) {
    return ContinuationScores(count);
  }
  std::vector<std::size_t> first{0};  // of each item's answers among all, and their number
  for (const Continuations& item : items) {
    first.push_back(first.back() + item.answers.size());
  }
  std::vector<double> sums(count * first.back(), 0.0);
  for_each_group(context, static_cast<std::int64_t>(items.size()),
                 [&](const std::vector<std::int64_t>& group) {
                   std::vector<PackItem> alike;
                   for (const std::int64_t index : group) {
                     alike.push_back({index, 0});
                   }
                   const PackedAnswers packed = pack_continuations(items, alike, context.decoder);
                   const SteeredPass pass(context.decoder, vectors, packed, settings.positions);
                   for (std::size_t s = 0; s < count; ++s) {
                     const std::vector<double> of_group =
                         sum_answers(packed, context.decoder.next_token_log_probs(
                                                 pass.to_answers(settings.coefficients[s]),
                                                 packed.row_of_target, packed.targets));
                     const std::size_t place =
                         s * first.back() + first[static_cast<std::size_t>(group.front())];
                     std::copy(of_group.begin(), of_group.end(),
                               sums.begin() + static_cast<std::ptrdiff_t>(place));
                   }
                 });
  share_rows(sums, context.decoder.device(), context.ranks);
  ContinuationScores scores(count, std::vector<std::vector<AnswerScore>>(items.size()));
  auto sum = sums.cbegin();
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (const std::vector<TokenId>& answer : items[i].answers) {
        require_finite(*sum, "a log-probability", items[i].where, settings.coefficients[s]);
        scores[s][i].push_back({*sum++, static_cast<std::int64_t>(answer.size())});
      }
    }
  }
  return scores;
}

std::vector<std::vector<PromptDivergence>> prompt_divergences(
    const ScoringContext& context, const std::vector<PromptTokens>& prompts,
    const SteeringVectors& vectors, const std::vector<std::vector<double>>& settings) {
  const at::NoGradGuard no_grad;
  const std::size_t count = settings.size();
  std::vector<std::vector<PromptDivergence>> result(count);
  if (prompts.empty() || count == 0) {
    return result;
  }
  const auto positions_of = [&](std::size_t prompt) {
    return static_cast<std::int64_t>(prompts[prompt].ids.size());
  };
  std::vector<double> sums(count * prompts.size(), 0.0);
  for_each_group(context, static_cast<std::int64_t>(prompts.size()),
                 [&](const std::vector<std::int64_t>& group) {
                   const PackedAnswers packed = pack_prompts(prompts, group, context.decoder);
                   const at::Tensor of_rows =
                       divergences(context.decoder, packed, vectors, settings).to(at::kCPU);
                   std::int64_t row = 0;
                   for (const std::int64_t index : group) {
                     const auto prompt = static_cast<std::size_t>(index);
                     const at::Tensor of_prompt =
                         of_rows.narrow(1, row, positions_of(prompt)).sum(1);
                     for (std::size_t s = 0; s < count; ++s) {
                       sums[s * prompts.size() + prompt] =
                           of_prompt[static_cast<std::int64_t>(s)].item<double>();
                     }
                     row += positions_of(prompt);
                   }
                 });
  share_rows(sums, context.decoder.device(), context.ranks);
  auto sum = sums.cbegin();
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t prompt = 0; prompt < prompts.size(); ++prompt) {
      require_finite(*sum, "the KL divergence", prompts[prompt].where, settings[s]);
      result[s].push_back({*sum++, positions_of(prompt)});
    }
  }
  return result;
}

}  // namespace bipo
