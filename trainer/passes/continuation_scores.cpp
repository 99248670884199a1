#include "trainer/passes/continuation_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "collectives/foundation/errors.hpp"
#include "collectives/session.hpp"
#include "trainer/passes/packing.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

// Runs a packed batch under every setting [S][M]: the blocks up to the lowest steered one once,
// those up to the last steered one for each setting.  `visit` gets the setting's index and runs the
// rest. Settings of zeros give the model's own numbers.  Collective over: tp
void for_each_setting(const Decoder& decoder, const PackedAnswers& packed,
                      const SteeringVectors& vectors, const SteeringSettings& settings,
                      const std::function<void(std::size_t, const ResidualStream&)>& visit) {
  const std::vector<SteeredPlace> places = vectors.places();
  const at::Tensor mask = steered_mask(packed, decoder);
  const auto run = [&](const at::Tensor& h, Range blocks, const ChangeMlpOutput& change) {
    return decoder.run_blocks(h, blocks, packed.layout, change);
  };
  const std::int64_t blocks = places.empty() ? 0 : places.front().blocks_before();
  const ResidualStream prefix{run(decoder.embed(packed.ids), {0, blocks}, nullptr), blocks};
  for (std::size_t s = 0; s < settings.coefficients.size(); ++s) {
    const at::Tensor of_rows =
        at::outer(at::tensor(settings.coefficients[s], at::kDouble).to(mask.options()), mask);
    const auto add = [&](const at::Tensor& h, const SteeredPlace& place) {
      return vectors.steer(h, place, of_rows);
    };
    visit(s, run_past_sites(prefix, places, add, run));
  }
}

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
                           const std::vector<std::int64_t>& group, const SteeringSettings& settings,
                           const Decoder& decoder) {
  std::vector<Continuations> items;
  std::vector<PackItem> trees;
  for (const std::int64_t index : group) {
    const PromptTokens& prompt = prompts[static_cast<std::size_t>(index)];
    const auto place = static_cast<std::int64_t>(items.size());
    trees.push_back({place, {place, 0, 1, settings.positions_of(static_cast<std::size_t>(index))}});
    items.push_back({prompt.ids, {{prompt.ids.back()}}, prompt.where});
  }
  return pack_continuations(items, trees, decoder);
}

// Packs the answers `group` of items, those with the same steering in one tree.
PackedAnswers pack_items(const std::vector<Continuations>& items,
                         const std::vector<std::int64_t>& group, const SteeringSettings& settings,
                         const Decoder& decoder) {
  std::vector<PackItem> packed;
  for (const std::int64_t index : group) {
    packed.push_back({index, {0, 0, 1, settings.positions_of(static_cast<std::size_t>(index))}});
  }
  return pack_continuations(items, packed, decoder);
}

// [S, T]
at::Tensor divergences(const Decoder& decoder, const PackedAnswers& packed,
                       const SteeringVectors& vectors, SteeringSettings settings) {
  settings.coefficients.emplace_back(vectors.count(), 0.0);
  std::vector<at::Tensor> outputs;
  for_each_setting(
      decoder, packed, vectors, settings, [&](std::size_t, const ResidualStream& steered) {
        outputs.push_back(decoder.run_blocks(
            steered.hidden, {steered.next_block, decoder.config().blocks}, packed.layout));
      });
  const at::Tensor own = outputs.back();
  outputs.pop_back();
  return decoder.next_token_divergences(own, outputs);
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
  const auto score_group = [&](const std::vector<std::int64_t>& group) {
    const Decoder& decoder = context.decoder;
    const PackedAnswers packed = pack_items(items, group, settings, decoder);
    const std::size_t place = first[static_cast<std::size_t>(group.front())];
    const auto score_setting = [&](std::size_t s, const ResidualStream& steered) {
      const std::vector<double> of_group = sum_answers(
          packed, decoder.next_token_log_probs(
                      decoder.run_to_answers(steered.hidden, steered.next_block, packed.layout),
                      packed.row_of_target, packed.targets));
      std::copy(of_group.begin(), of_group.end(),
                sums.begin() + static_cast<std::ptrdiff_t>(s * first.back() + place));
    };
    for_each_setting(decoder, packed, vectors, settings, score_setting);
  };
  for_each_group(context, static_cast<std::int64_t>(items.size()), score_group);
  share_rows(sums, context.decoder.device(), context.ranks);
  ContinuationScores scores(count, std::vector<std::vector<AnswerScore>>(items.size()));
  auto sum = sums.cbegin();
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Continuations& item = items[i];
      for (std::size_t a = 0; a < item.answers.size(); ++a) {
        require_finite(*sum, "a log-probability", item.where, settings.coefficients[s]);
        const ScoredTokens scored = item.scored.empty() ? ScoredTokens() : item.scored[a];
        scores[s][i].push_back({*sum++, scored_count(scored, item.answers[a].size())});
      }
    }
  }
  return scores;
}

std::vector<std::vector<PromptDivergence>> prompt_divergences(
    const ScoringContext& context, const std::vector<PromptTokens>& prompts,
    const SteeringVectors& vectors, const SteeringSettings& settings) {
  const at::NoGradGuard no_grad;
  const std::size_t count = settings.coefficients.size();
  std::vector<std::vector<PromptDivergence>> result(count);
  if (prompts.empty() || count == 0) {
    return result;
  }
  const auto positions_of = [&](std::size_t prompt) {
    return static_cast<std::int64_t>(prompts[prompt].ids.size());
  };
  std::vector<double> sums(count * prompts.size(), 0.0);
  const auto score_group = [&](const std::vector<std::int64_t>& group) {
    const PackedAnswers packed = pack_prompts(prompts, group, settings, context.decoder);
    const at::Tensor of_rows = divergences(context.decoder, packed, vectors, settings).to(at::kCPU);
    std::int64_t row = 0;
    for (const std::int64_t index : group) {
      const auto prompt = static_cast<std::size_t>(index);
      const at::Tensor of_prompt = of_rows.narrow(1, row, positions_of(prompt)).sum(1);
      for (std::size_t s = 0; s < count; ++s) {
        sums[s * prompts.size() + prompt] = of_prompt[static_cast<std::int64_t>(s)].item<double>();
      }
      row += positions_of(prompt);
    }
  };
  for_each_group(context, static_cast<std::int64_t>(prompts.size()), score_group);
  share_rows(sums, context.decoder.device(), context.ranks);
  auto sum = sums.cbegin();
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t prompt = 0; prompt < prompts.size(); ++prompt) {
      require_finite(*sum, "the KL divergence", prompts[prompt].where, settings.coefficients[s]);
      result[s].push_back({*sum++, positions_of(prompt)});
    }
  }
  return result;
}

std::vector<double> gate_projections(const ScoringContext& context,
                                     const std::vector<PromptTokens>& prompts, const Gate& gate) {
  const at::NoGradGuard no_grad;
  const Decoder& decoder = context.decoder;
  const at::Tensor vector = at::tensor(gate.vector.value, at::kFloat).to(at::kDouble);
  const double norm = vector.norm().item<double>();
  if (norm == 0) {
    throw BugError("a gate's vector of zeros");
  }
  std::vector<double> projections(prompts.size(), 0.0);
  const auto project_group = [&](const std::vector<std::int64_t>& group) {
    const PackedAnswers packed = pack_prompts(prompts, group, {}, decoder);
    std::vector<std::int64_t> last_rows;
    std::int64_t end = 0;
    for (const std::int64_t index : group) {
      end += static_cast<std::int64_t>(prompts[static_cast<std::size_t>(index)].ids.size());
      last_rows.push_back(end - 1);
    }
    const at::Tensor last =
        run_prefix(decoder, packed, gate.vector.layer)
            .index_select(0, at::tensor(last_rows, at::kLong).to(decoder.device()))
            .to(at::kCPU, at::kDouble);
    for (std::size_t i = 0; i < group.size(); ++i) {
      projections[static_cast<std::size_t>(group[i])] =
          last[static_cast<std::int64_t>(i)].dot(vector).item<double>() / norm;
    }
  };
  for_each_group(context, static_cast<std::int64_t>(prompts.size()), project_group);
  if (!prompts.empty()) {
    share_rows(projections, decoder.device(), context.ranks);
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!std::isfinite(projections[i])) {
      throw AgreedFailure(
          fmt::format("{}: its projection on the gate's vector is {}; use --dtype fp32",
                      prompts[i].where, projections[i]),
          kExitFailure);
    }
  }
  return projections;
}

std::vector<bool> open_gates(const ScoringContext& context,
                             const std::vector<PromptTokens>& prompts, const Gate& gate) {
  std::vector<bool> open;
  for (const double projection : gate_projections(context, prompts, gate)) {
    open.push_back(projection > gate.threshold);
  }
  return open;
}

}  // namespace bipo
