#include "experiments/training/plan_warnings.hpp"

#include <fmt/format.h>

namespace bipo {

std::vector<std::string> plan_warnings(const BatchPlan& plan, std::int64_t warmup_steps,
                                       std::int64_t micro_batch, std::int64_t dp,
                                       const PlanWording& wording) {
  std::vector<std::string> warnings;
  if (warmup_steps >= plan.total_steps()) {
    warnings.push_back(fmt::format(
        "the warm-up of {} steps is as long as {} or longer ({} steps): the learning rate never "
        "reaches {}; lower --warmup-steps",
        warmup_steps, wording.run, plan.total_steps(), wording.lr_options));
  }
  const PlanSettings& settings = plan.settings();
  if (settings.batch_size > settings.pairs) {
    warnings.push_back(
        fmt::format("a batch of {} is more than the {} pairs: every step takes all of them",
                    settings.batch_size, settings.pairs));
  }
  const StepPlan first = plan.step(0);
  const auto busy = static_cast<std::int64_t>(first.micro_batches.size());
  if (busy < dp) {
    warnings.push_back(fmt::format(
        "{} of {} replicas idle: a batch of {} in micro-batches of {} gives work to {}{}; lower "
        "--micro-batch, raise --batch-size, or use --tp",
        dp - busy, dp, first.pairs, micro_batch, busy, wording.about_cut));
  }
  return warnings;
}

}  // namespace bipo
