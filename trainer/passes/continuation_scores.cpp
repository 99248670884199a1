#include "trainer/passes/continuation_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "datasets/batches/batch_plan.hpp"

namespace bipo {
namespace {

// Places of the answers of all items in one row of numbers.
std::vector<std::size_t> first_answers(const std::vector<Continuations>& items) {
  std::vector<std::size_t> first{0};
  for (const Continuations& item : items) {
    first.push_back(first.back() + item.answers.size());
  }
  return first;
}

std::vector<PackItem> steered_alike(const std::vector<std::int64_t>& group) {
  std::vector<PackItem> items;
  for (const std::int64_t index : group) {
    items.push_back({index, 0});
  }
  return items;
}

// Sums over the answers of a batch, in the order of packing.
std::vector<double> sum_answers(const Decoder& decoder, const PackedAnswers& packed,
                                const at::Tensor& output) {
  const at::Tensor on_host =
      decoder.next_token_log_probs(output, packed.row_of_target, packed.targets)
          .to(at::kCPU, at::kDouble);
  const double* log_prob = on_host.const_data_ptr<double>();
  std::vector<double> sums(static_cast<std::size_t>(packed.answers), 0.0);
  for (std::size_t r = 0; r < packed.answer_of_target.size(); ++r) {
    sums[static_cast<std::size_t>(packed.answer_of_target[r])] += log_prob[r];
  }
  return sums;
}

// Every rank holds the same values.
void require_finite(const ContinuationScores& scores, const std::vector<Continuations>& items,
                    const SteeringSettings& settings) {
  for (std::size_t s = 0; s < scores.size(); ++s) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (const AnswerScore& answer : scores[s][i]) {
        if (!std::isfinite(answer.log_prob)) {
          throw AgreedFailure(
              fmt::format("{}: a log-probability is {} with coefficients ({}) on the vectors; use "
                          "smaller multipliers, or --dtype fp32",
                          items[i].where, answer.log_prob,
                          fmt::join(settings.coefficients[s], ", ")),
              kExitFailure);
        }
      }
    }
  }
}

}  // namespace

ContinuationScores score_continuations(const Decoder& decoder,
                                       const std::vector<Continuations>& items,
                                       std::int64_t group_size, const SteeringVectors& vectors,
                                       const SteeringSettings& settings, const Ranks& ranks,
                                       const Progress& progress) {
  const at::NoGradGuard no_grad;
  const std::size_t count = settings.coefficients.size();
  if (items.empty() || count == 0) {
    return ContinuationScores(count);
  }
  const std::vector<std::size_t> first = first_answers(items);
  const auto groups = consecutive_groups(static_cast<std::int64_t>(items.size()), group_size);
  const auto group_count = static_cast<std::int64_t>(groups.size());
  const std::int64_t replicas = ranks.topology.dp();
  std::vector<double> values(count * first.back(), 0.0);
  for (std::int64_t g = ranks.topology.dp_rank(); g < group_count; g += replicas) {
    const auto& group = groups[static_cast<std::size_t>(g)];
    const PackedAnswers packed = pack_continuations(items, steered_alike(group), decoder);
    const SteeredPass pass(decoder, vectors, packed, settings.positions);
    const std::size_t place = first[static_cast<std::size_t>(group.front())];
    for (std::size_t s = 0; s < count; ++s) {
      const std::vector<double> sums =
          sum_answers(decoder, packed, pass.to_answers(settings.coefficients[s]));
      std::copy(sums.begin(), sums.end(),
                values.begin() + static_cast<std::ptrdiff_t>(s * first.back() + place));
    }
    progress(std::min(group_count, g + replicas), group_count);
  }
  const std::vector<double> all = gather_values(values, decoder.device(), ranks);
  ContinuationScores scores(count, std::vector<std::vector<AnswerScore>>(items.size()));
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::size_t a = 0; a < items[i].answers.size(); ++a) {
        scores[s][i].push_back({all[s * first.back() + first[i] + a],
                                static_cast<std::int64_t>(items[i].answers[a].size())});
      }
    }
  }
  require_finite(scores, items, settings);
  return scores;
}

}  // namespace bipo
