#include "experiments/evaluation_run/evaluation_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/evaluation_run/evaluation_measures.hpp"
#include "experiments/job/gate_room.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/cost/fitting_size.hpp"
#include "trainer/cost/forward_memory.hpp"

namespace bipo {
namespace {

using Group = std::vector<std::int64_t>;

std::int64_t common_beginning(const std::vector<TokenId>& first, std::int64_t most,
                              const std::vector<TokenId>& prompt) {
  const std::int64_t length = std::min(most, std::ssize(prompt));
  return std::mismatch(first.begin(), first.begin() + length, prompt.begin()).first - first.begin();
}

// Counts the rows of a pass over the group, and those that it certainly scores: an answer's scored
// tokens but the first one, which a prompt's row may predict.
ForwardBatch batch_of(const std::vector<Continuations>& items, const Group& group) {
  const std::vector<TokenId>& first = items[static_cast<std::size_t>(group.front())].prompt;
  std::int64_t shared = std::ssize(first);
  ForwardBatch batch;
  for (const std::int64_t index : group) {
    const Continuations& item = items[static_cast<std::size_t>(index)];
    shared = common_beginning(first, shared, item.prompt);
    batch.tokens += static_cast<double>(item.prompt.size());
    for (std::size_t a = 0; a < item.answers.size(); ++a) {
      const ScoredTokens scored = item.scored.empty() ? ScoredTokens() : item.scored[a];
      const std::int64_t counted = scored_count(scored, item.answers[a].size());
      batch.tokens += static_cast<double>(item.answers[a].size() - 1);
      batch.scored += static_cast<double>(std::max<std::int64_t>(0, counted - 1));
    }
  }
  batch.tokens -= static_cast<double>((std::ssize(group) - 1) * shared);
  return batch;
}

// What a measure runs, by its name for users.
struct Measured {
  std::string what;
  std::int64_t items = 0;
  double divergences = 0;  // settings whose outputs are compared; 0: scores
  std::function<ForwardBatch(const Group& group)> batch;
};

// Prompts whose gates are decided, in a pass of their own.
struct GatedPrompts {
  std::string of;                     // the measure, by its name for users
  std::vector<std::int64_t> lengths;  // in tokens
};

// The pass over a batch that takes most.
struct LargestBatch {
  std::string what;
  double bytes = 0;

  void raise_to(const std::string& other, double bytes_of_other) {
    if (bytes_of_other > bytes) {
      *this = {other, bytes_of_other};
    }
  }
};

const std::vector<TokenId>& prompt_of(const Continuations& item) {
  return item.prompt;
}

const std::vector<TokenId>& prompt_of(const PromptTokens& prompt) {
  return prompt.ids;
}

class BatchRoom {
 public:
  explicit BatchRoom(const EvaluationJob& job)
      : job_(job), bytes_(element_bytes(job.model.computation)) {
    const auto all = job.plan.coefficients.begin();
    const auto of_directions = static_cast<std::ptrdiff_t>(job.plan.direction_settings);
    const bool pairs_are_steered = steers(job.plan.coefficients);
    const bool are_steered = steers({all, all + of_directions});
    add_scores("--test", items_of(job.pairs), pairs_are_steered);
    for (const ChoiceQuestions& questions : job.choices) {
      add_scores(fmt::format("the {} questions", choice_kind_name(questions.set.kind)),
                 items_of(questions), are_steered);
    }
    add_scores("--reference-text", job.reference_text, are_steered);
    add_scores("--generations", job.generation_tokens.items, /*are_steered=*/false);
    add_divergences(are_steered);
  }

  // Returns what takes most with batches of so many items.
  LargestBatch largest(std::int64_t batch_size) const {
    LargestBatch most;
    for (const GatedPrompts& gated : gated_) {
      most.raise_to(fmt::format("prompts of {}, for --gate,", gated.of),
                    least_gate_bytes(job_.model, *job_.gate, gated.lengths, batch_size));
    }
    for (const Measured& measured : measured_) {
      SeenPasses<ForwardBatch> seen;
      for (const Group& group : consecutive_groups(measured.items, batch_size)) {
        const ForwardBatch batch = measured.batch(group);
        if (seen.add(batch)) {
          most.raise_to(measured.what, bytes_of(measured, batch));
        }
      }
    }
    return most;
  }

 private:
  double bytes_of(const Measured& measured, const ForwardBatch& batch) const {
    const ModelConfig& config = job_.model.files.config;
    const int tp = job_.model.computation.topology.tp();
    return measured.divergences > 0
               ? least_divergence_bytes(config, tp, bytes_, batch.tokens, measured.divergences)
               : least_scoring_bytes(config, tp, bytes_, batch);
  }

  template <class Items>
  void add_gates(const std::string& what, const Items& items, bool are_steered) {
    if (!job_.gate || !are_steered) {
      return;
    }
    GatedPrompts& gated = gated_.emplace_back(GatedPrompts{what, {}});
    for (const auto& item : items) {
      gated.lengths.push_back(std::ssize(prompt_of(item)));
    }
  }

  void add_scores(const std::string& what, std::vector<Continuations> items, bool are_steered) {
    add_gates(what, items, are_steered);
    const auto count = std::ssize(items);
    measured_.push_back({what, count, 0, [items = std::move(items)](const Group& group) {
                           return batch_of(items, group);
                         }});
  }

  // Prompts stand side by side there.
  void add_divergences(bool are_steered) {
    const std::vector<PromptTokens>& prompts = job_.neutral_prompts;
    const std::string what = "--neutral-prompts";
    add_gates(what, prompts, are_steered);
    measured_.push_back(
        {what, std::ssize(prompts), static_cast<double>(job_.plan.direction_settings),
         [&prompts](const Group& group) {
           ForwardBatch batch;
           for (const std::int64_t index : group) {
             batch.tokens +=
                 static_cast<double>(prompts[static_cast<std::size_t>(index)].ids.size());
           }
           return batch;
         }});
  }

  const EvaluationJob& job_;
  ElementBytes bytes_;
  std::vector<Measured> measured_;
  std::vector<GatedPrompts> gated_;
};

}  // namespace

void require_batch_room(const EvaluationJob& job, std::uint64_t left) {
  const Computation& computation = job.model.computation;
  if (computation.device.is_cpu()) {
    return;
  }
  const BatchRoom room(job);
  const auto has_room = [&](std::int64_t batch_size) {
    return room.largest(batch_size).bytes <= static_cast<double>(left);
  };
  const std::int64_t given = job.options.batch_size;
  if (has_room(given)) {
    return;
  }
  const std::int64_t fits = largest_fitting_size(given, has_room);
  const LargestBatch largest = room.largest(given);
  const std::string remedy =
      fits > 0 ? fmt::format("use --batch-size {}{}, ", fits, fits > 1 ? " or less" : "")
               : std::string("not even one item has room; use shorter ones (--max-length), ");
  throw UserError(fmt::format(
      "--batch-size {}: the pass over a batch of {} takes at least {} per rank, and {} are free "
      "beside the weights; {}{}a larger --tp",
      given, largest.what, gib_text(largest.bytes), gib_text(static_cast<double>(left)), remedy,
      computation.product_type == c10::kBFloat16 ? "or " : "--dtype bf16 or "));
}

}  // namespace bipo
