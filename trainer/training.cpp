#include "trainer/training.hpp"

#include <ATen/ATen.h>
#include <c10/core/AutogradState.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "collectives/exact_sum.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/pair_scores.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Runs backward on this thread: on CUDA autograd would otherwise use one of its own, and the
// collectives in it must stay on the thread that initialised MPI.
class SingleThreadedBackward {
 public:
  SingleThreadedBackward() : state_(c10::AutogradState::get_tls_state()) {
    auto single = state_;
    single.set_multithreading_enabled(false);
    c10::AutogradState::set_tls_state(single);
  }
  ~SingleThreadedBackward() { c10::AutogradState::set_tls_state(state_); }
  SingleThreadedBackward(const SingleThreadedBackward&) = delete;
  SingleThreadedBackward& operator=(const SingleThreadedBackward&) = delete;

 private:
  c10::AutogradState state_;
};

// The outcome of one step before the update, the same on every rank.
struct StepOutcome {
  std::vector<double> gradient;  // [D] of the mean loss
  double loss = 0;
  double margin = 0;
  double accuracy = 0;
  double tokens = 0;
};

class Trainer {
 public:
  Trainer(const Decoder& decoder, const ActivationCache& cache, const ActivationCache* held_out,
          const TrainingSettings& settings, const Ranks& ranks, TrainingRecord& record,
          TrainingObserver& observer)
      : decoder_(decoder),
        cache_(cache),
        held_out_(held_out),
        settings_(settings),
        plan_(settings.plan),
        ranks_(ranks),
        record_(record),
        observer_(observer) {}

  RunStatus run() {
    drop_vectors_between_epochs();
    Checkpoint& state = record_.checkpoint;
    if (state.step == 0) {
      save(RunStatus::kRunning);
    }
    while (state.step < plan_.total_steps()) {
      const StepPlan step = plan_.step(state.step);
      advance(step);
      const bool last = state.step == plan_.total_steps();
      if (step.ends_epoch || last) {
        end_epoch(step.epoch, last);
      }
      const Verdict verdict =
          agree(observer_.stop_requested(), seconds_since(last_save_) >= settings_.save_every);
      if (last) {
        break;
      }
      if (verdict.stop) {
        save(RunStatus::kInterrupted);
        return RunStatus::kInterrupted;
      }
      if (verdict.save || step.ends_epoch) {
        save(RunStatus::kRunning);
      }
    }
    save(RunStatus::kComplete);
    return RunStatus::kComplete;
  }

 private:
  struct Verdict {
    bool stop;
    bool save;
  };

  // One step's forward and backward passes, reduced over the replicas.
  StepOutcome compute(const StepPlan& step) {
    const auto passes = static_cast<std::int64_t>(step.passes.size());
    // Per pass and pair {margin, loss, tokens}; each element is filled by one replica.
    std::vector<double> outcomes(static_cast<std::size_t>(passes * step.pairs * 3), 0.0);
    std::vector<at::Tensor> gradients;
    std::int64_t first_pair = 0;
    for (std::size_t m = 0; m < step.micro_batches.size(); ++m) {
      const auto& indices = step.micro_batches[m];
      if (static_cast<int>(m % static_cast<std::size_t>(ranks_.topology.dp())) ==
          ranks_.topology.dp_rank()) {
        const PackedPairs packed = pack_pairs(cache_.pairs(), indices, decoder_);
        const at::Tensor hidden = cache_.activations(indices);
        for (std::int64_t pass = 0; pass < passes; ++pass) {
          const std::int8_t* signs =
              step.passes[static_cast<std::size_t>(pass)].data() + first_pair;
          double* out = outcomes.data() + (pass * step.pairs + first_pair) * 3;
          gradients.push_back(differentiate(indices, packed, hidden, signs, out));
        }
      }
      first_pair += static_cast<std::int64_t>(indices.size());
    }

    const std::int64_t terms = passes * static_cast<std::int64_t>(step.micro_batches.size());
    at::Tensor gradient =
        exact_sum(gradients, decoder_.config().hidden, decoder_.device(), terms, *ranks_.dp)
            .to(decoder_.device());
    // The tp ranks' gradients may differ in the last bits; their vectors must not.
    ranks_.tp->broadcast(gradient, 0);
    gradient = gradient.cpu();
    const at::Tensor shared = at::tensor(outcomes, at::kDouble).to(decoder_.device());
    ranks_.dp->all_reduce(shared, ReduceOp::kSum);
    return summarize(gradient, shared.cpu(), static_cast<double>(passes * step.pairs));
  }

  // Fills {margin, loss, tokens} per pair; returns the gradient [D] of the micro-batch's summed
  // loss.
  at::Tensor differentiate(const std::vector<std::int64_t>& indices, const PackedPairs& packed,
                           const at::Tensor& hidden, const std::int8_t* signs, double* out) {
    const auto residual =
        at::TensorOptions().dtype(decoder_.residual_type()).device(decoder_.device());
    std::vector<double> coefficients(packed.pair_of_token.size());
    for (std::size_t t = 0; t < coefficients.size(); ++t) {
      coefficients[t] = signs[packed.pair_of_token[t]];
    }
    const at::Tensor vector =
        at::tensor(record_.checkpoint.vector, at::kFloat).to(residual).set_requires_grad(true);
    const Steering steering{cache_.layer(), at::tensor(coefficients, at::kDouble).to(residual),
                            vector};
    const PairScores scores = score_pairs(decoder_, packed, hidden, steering);

    std::vector<double> loss_by_answer;
    for (std::size_t p = 0; p < indices.size(); ++p) {
      const AnswerLogProbs& reference = cache_.reference()[static_cast<std::size_t>(indices[p])];
      const PairObjective objective =
          pair_objective(scores.answers[p], reference, signs[p], settings_.beta);
      loss_by_answer.insert(loss_by_answer.end(),
                            {objective.loss_by_delta, -objective.loss_by_delta});
      out[3 * p] = objective.margin;
      out[3 * p + 1] = objective.loss;
      out[3 * p + 2] =
          static_cast<double>(packed_size(cache_.pairs()[static_cast<std::size_t>(indices[p])]));
    }
    std::vector<double> loss_by_row;
    for (const std::int64_t answer : packed.answer_of_row) {
      loss_by_row.push_back(loss_by_answer[static_cast<std::size_t>(answer)]);
    }
    scores.row_log_probs.backward(at::tensor(loss_by_row, at::kDouble).to(residual));
    return vector.grad();
  }

  static StepOutcome summarize(const at::Tensor& gradient, const at::Tensor& per_pair,
                               double count) {
    StepOutcome outcome;
    const double* g = gradient.const_data_ptr<double>();
    for (std::int64_t i = 0; i < gradient.numel(); ++i) {
      outcome.gradient.push_back(g[i] / count);
    }
    const double* values = per_pair.const_data_ptr<double>();
    for (std::int64_t i = 0; i < per_pair.numel(); i += 3) {
      outcome.margin += values[i];
      outcome.loss += values[i + 1];
      outcome.accuracy += values[i] > 0 ? 1 : 0;
      outcome.tokens += values[i + 2];
    }
    outcome.margin /= count;
    outcome.loss /= count;
    outcome.accuracy /= count;
    return outcome;
  }

  void advance(const StepPlan& step) {
    const auto begin = Clock::now();
    Checkpoint& state = record_.checkpoint;
    StepOutcome outcome = compute(step);
    StepRow row;
    row.step = step.step;
    row.epoch = step.epoch;
    row.lr =
        settings_.lr * cosine_with_warmup(step.step, settings_.warmup_steps, plan_.total_steps());
    row.loss = outcome.loss;
    row.margin = outcome.margin;
    row.accuracy = outcome.accuracy;
    row.sign = step.logged_sign;
    row.tokens = outcome.tokens;
    row.grad_norm = clip_norm(outcome.gradient, settings_.max_grad_norm);
    settings_.optimizer.update(state.vector, state.exp_avg, state.exp_avg_sq, outcome.gradient,
                               row.lr, step.step);
    state.step = step.step + 1;
    row.vector_norm = norm(state.vector);
    row.seconds = seconds_since(begin);
    record_.steps.push_back(row);
    observer_.on_step(row);
  }

  void end_epoch(std::int32_t epoch, bool last) {
    const Checkpoint& state = record_.checkpoint;
    record_.vectors.push_back({state.vector, state.step, epoch});
    const bool due = settings_.eval_every > 0 && ((epoch + 1) % settings_.eval_every == 0 || last);
    if (held_out_ == nullptr || !due) {
      return;
    }
    auto rows = evaluate_pairs(decoder_, *held_out_, state.vector, settings_.multipliers,
                               settings_.beta, ranks_);
    for (EvalRow& row : rows) {
      row.step = state.step;
      row.epoch = epoch;
    }
    record_.evals.insert(record_.evals.end(), rows.begin(), rows.end());
    observer_.on_evaluation(rows);
  }

  // One rank's stop is everyone's; world rank 0's clock decides when to save.
  Verdict agree(bool stop, bool save) {
    const at::Tensor wishes = at::zeros({2}, at::kLong);
    wishes[0] = stop ? 1 : 0;
    wishes[1] = save && ranks_.world->rank() == 0 ? 1 : 0;
    ranks_.world->all_reduce(wishes, ReduceOp::kMax);
    return {wishes[0].item<std::int64_t>() != 0, wishes[1].item<std::int64_t>() != 0};
  }

  void save(RunStatus status) {
    check_same_vector();
    last_save_ = Clock::now();
    if (ranks_.world->rank() != 0) {
      return;
    }
    const Checkpoint& state = record_.checkpoint;
    const bool stored = !record_.vectors.empty() && record_.vectors.back().step == state.step;
    if (stored || state.step == 0) {
      observer_.save(record_, status);
      return;
    }
    record_.vectors.push_back({state.vector, state.step, plan_.step(state.step - 1).epoch});
    observer_.save(record_, status);
    record_.vectors.pop_back();
  }

  // A vector that drifted apart between ranks would be saved as if it were right.
  void check_same_vector() {
    const std::vector<float>& vector = record_.checkpoint.vector;
    ContentHash hash;
    hash.add_bytes(vector.data(), vector.size() * sizeof(float));
    const at::Tensor mine = at::full({1}, static_cast<std::int64_t>(hash.value()), at::kLong);
    const at::Tensor all = ranks_.world->all_gather(mine);
    if (!all.eq(mine).all().item<bool>()) {
      throw BugError(fmt::format("rank {}: the ranks' vectors differ after step {}",
                                 ranks_.world->rank(), record_.checkpoint.step));
    }
  }

  // An interrupted or running file ends with the vector of its moment; only those of whole epochs
  // belong to the result.
  void drop_vectors_between_epochs() {
    std::erase_if(record_.vectors, [&](const SavedVector& saved) {
      return saved.step % plan_.steps_per_epoch() != 0;
    });
  }

  const Decoder& decoder_;
  const ActivationCache& cache_;
  const ActivationCache* held_out_;
  const TrainingSettings& settings_;
  BatchPlan plan_;
  const Ranks& ranks_;
  TrainingRecord& record_;
  TrainingObserver& observer_;
  Clock::time_point last_save_ = Clock::now();
};

}  // namespace

void check_zero_vector(const Decoder& decoder, const ActivationCache& cache, const Ranks& ranks) {
  const SingleThreadedBackward single_threaded;
  const auto group_index = static_cast<std::size_t>(ranks.topology.dp_rank());
  if (group_index >= cache.groups().size()) {
    return;
  }
  const auto& group = cache.groups()[group_index];
  const PackedPairs packed = pack_pairs(cache.pairs(), group, decoder);
  const auto residual = at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
  const at::Tensor zero = at::zeros({decoder.config().hidden}, residual).set_requires_grad(true);
  const Steering steering{cache.layer(), at::ones({packed.tokens()}, residual), zero};
  const PairScores scores = score_pairs(decoder, packed, cache.activations(group), steering);
  // Rounding errors of one float32 product of length D, summed as a random walk over the blocks,
  // relative to the log-probability and to logits of the order of ten per token.
  const double relative =
      std::numeric_limits<float>::epsilon() *
      std::sqrt(static_cast<double>(decoder.config().hidden * decoder.config().blocks));
  for (std::size_t p = 0; p < group.size(); ++p) {
    const TokenPair& pair = cache.pairs()[static_cast<std::size_t>(group[p])];
    const AnswerLogProbs& expected = cache.reference()[static_cast<std::size_t>(group[p])];
    const AnswerLogProbs& found = scores.answers[p];
    const auto tolerance = [&](double log_prob, std::size_t tokens) {
      return relative * (std::abs(log_prob) + 10.0 * static_cast<double>(tokens));
    };
    if (!(std::abs(found.chosen - expected.chosen) <=
          tolerance(expected.chosen, pair.chosen.size())) ||
        !(std::abs(found.rejected - expected.rejected) <=
          tolerance(expected.rejected, pair.rejected.size()))) {
      throw BugError(fmt::format(
          "{}: at v = 0 the policy's log-probabilities {:.9g} / {:.9g} differ from the reference's "
          "{:.9g} / {:.9g}",
          pair.where, found.chosen, found.rejected, expected.chosen, expected.rejected));
    }
  }
}

RunStatus train(const Decoder& decoder, const ActivationCache& cache,
                const ActivationCache* held_out, const TrainingSettings& settings,
                const Ranks& ranks, TrainingRecord& record, TrainingObserver& observer) {
  const SingleThreadedBackward single_threaded;
  return Trainer(decoder, cache, held_out, settings, ranks, record, observer).run();
}

}  // namespace bipo
