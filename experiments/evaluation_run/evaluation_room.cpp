#include "experiments/evaluation_run/evaluation_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "experiments/evaluation_run/evaluation_measures.hpp"
#include "experiments/progress/progress.hpp"
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

class BatchRoom {
 public:
  explicit BatchRoom(const EvaluationJob& job)
      : job_(job), bytes_(element_bytes(job.model.computation)) {
    add_scores("--test", items_of(job.pairs));
    for (const ChoiceQuestions& questions : job.choices) {
      add_scores(fmt::format("the {} questions", choice_kind_name(questions.set.kind)),
                 items_of(questions));
    }
    add_scores("--reference-text", job.reference_text);
    add_scores("--generations", job.generation_tokens.items);
    add_divergences();
  }

  // Returns the measure that takes most with batches of so many items, and its bytes.
  std::pair<const Measured*, double> largest(std::int64_t batch_size) const {
    std::pair<const Measured*, double> most{nullptr, 0};
    for (const Measured& measured : measured_) {
      ForwardBatch seen;
      for (const Group& group : consecutive_groups(measured.items, batch_size)) {
        const ForwardBatch batch = measured.batch(group);
        if (batch.tokens <= seen.tokens && batch.scored <= seen.scored) {
          continue;  // takes no more
        }
        seen = {std::max(seen.tokens, batch.tokens), std::max(seen.scored, batch.scored)};
        if (const double bytes = bytes_of(measured, batch); bytes > most.second) {
          most = {&measured, bytes};
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

  void add_scores(const std::string& what, std::vector<Continuations> items) {
    const auto count = std::ssize(items);
    measured_.push_back({what, count, 0, [items = std::move(items)](const Group& group) {
                           return batch_of(items, group);
                         }});
  }

  // Prompts stand side by side there.
  void add_divergences() {
    const std::vector<PromptTokens>& prompts = job_.neutral_prompts;
    measured_.push_back(
        {"--neutral-prompts", std::ssize(prompts),
         static_cast<double>(job_.plan.direction_settings), [&prompts](const Group& group) {
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
};

}  // namespace

void require_batch_room(const EvaluationJob& job, std::uint64_t left) {
  const Computation& computation = job.model.computation;
  if (computation.device.is_cpu()) {
    return;
  }
  const BatchRoom room(job);
  const auto has_room = [&](std::int64_t batch_size) {
    return room.largest(batch_size).second <= static_cast<double>(left);
  };
  const std::int64_t given = job.options.batch_size;
  if (has_room(given)) {
    return;
  }
  std::int64_t most = 0;  // that may have room
  for (std::int64_t too_large = given; too_large - most > 1;) {
    const std::int64_t middle = most + (too_large - most) / 2;
    (has_room(middle) ? most : too_large) = middle;
  }
  const auto [measured, bytes] = room.largest(given);
  const std::string remedy =
      most > 0 ? fmt::format("use --batch-size {}{}, ", most, most > 1 ? " or less" : "")
               : std::string("not even one item has room; use shorter ones (--max-length), ");
  throw UserError(fmt::format(
      "--batch-size {}: the pass over a batch of {} takes at least {} per rank, and {} are free "
      "beside the weights; {}{}a larger --tp",
      given, measured->what, gib_text(bytes), gib_text(static_cast<double>(left)), remedy,
      computation.product_type == c10::kBFloat16 ? "or " : "--dtype bf16 or "));
}

}  // namespace bipo
