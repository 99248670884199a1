#include "trainer/passes/prompt_divergence.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "datasets/batches/batch_plan.hpp"

namespace bipo {
namespace {

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

std::vector<std::vector<PromptDivergence>> prompt_divergences(
    const Decoder& decoder, const std::vector<PromptTokens>& prompts, std::int64_t group_size,
    const SteeringVectors& vectors, const std::vector<std::vector<double>>& settings,
    const Ranks& ranks, const Progress& progress) {
  const at::NoGradGuard no_grad;
  const std::size_t count = settings.size();
  if (prompts.empty() || count == 0) {
    return std::vector<std::vector<PromptDivergence>>(count);
  }
  const auto positions_of = [&](std::size_t prompt) {
    return static_cast<std::int64_t>(prompts[prompt].ids.size());
  };
  const auto groups = consecutive_groups(static_cast<std::int64_t>(prompts.size()), group_size);
  const auto group_count = static_cast<std::int64_t>(groups.size());
  const std::int64_t replicas = ranks.topology.dp();
  std::vector<double> values(count * prompts.size(), 0.0);
  for (std::int64_t g = ranks.topology.dp_rank(); g < group_count; g += replicas) {
    const auto& group = groups[static_cast<std::size_t>(g)];
    const PackedAnswers packed = pack_prompts(prompts, group, decoder);
    const at::Tensor of_rows = divergences(decoder, packed, vectors, settings).to(at::kCPU);
    std::int64_t row = 0;
    for (const std::int64_t index : group) {
      const auto prompt = static_cast<std::size_t>(index);
      const at::Tensor sums = of_rows.narrow(1, row, positions_of(prompt)).sum(1);
      for (std::size_t s = 0; s < count; ++s) {
        values[s * prompts.size() + prompt] = sums[static_cast<std::int64_t>(s)].item<double>();
      }
      row += positions_of(prompt);
    }
    progress(std::min(group_count, g + replicas), group_count);
  }
  const std::vector<double> all = gather_values(values, decoder.device(), ranks);
  std::vector<std::vector<PromptDivergence>> result(count);
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t prompt = 0; prompt < prompts.size(); ++prompt) {
      const double sum = all[s * prompts.size() + prompt];
      if (!std::isfinite(sum)) {
        throw AgreedFailure(
            fmt::format("{}: the KL divergence is {} with coefficients ({}) on the vectors; use "
                        "smaller multipliers, or --dtype fp32",
                        prompts[prompt].where, sum, fmt::join(settings[s], ", ")),
            kExitFailure);
      }
      result[s].push_back({sum, positions_of(prompt)});
    }
  }
  return result;
}

}  // namespace bipo
