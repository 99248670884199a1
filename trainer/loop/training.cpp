#include "trainer/loop/training.hpp"

#include <ATen/ATen.h>
#include <c10/core/AutogradState.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "collectives/exact_sum.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/loop/device_step.hpp"
#include "trainer/loop/held_out_evaluation.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/scoring.hpp"
#include "trainer/passes/steering.hpp"
#include "trainer/records/best_epoch.hpp"
#include "trainer/records/records.hpp"

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

// What a pair under one sign contributes to a step.
struct PairOutcome {
  double margin = 0;
  double loss = 0;
  double tokens = 0;
};

// One step of one member before the update, the same on every rank.
struct StepOutcome {
  std::vector<double> gradient;  // [S D] of the mean loss
  bool finite = true;            // loss and gradient
  StepRow row;                   // loss, margin, accuracy and tokens
};

StepOutcome summarize(const at::Tensor& gradient, const std::vector<PairOutcome>& pairs) {
  StepOutcome outcome;
  const auto count = static_cast<double>(pairs.size());
  const double* g = gradient.const_data_ptr<double>();
  for (std::int64_t i = 0; i < gradient.numel(); ++i) {
    outcome.gradient.push_back(g[i] / count);
  }
  StepRow& row = outcome.row;
  for (const PairOutcome& pair : pairs) {
    row.margin += pair.margin;
    row.loss += pair.loss;
    row.accuracy += pair.margin > 0 ? 1 : 0;
    row.tokens += pair.tokens;
  }
  row.margin /= count;
  row.loss /= count;
  row.accuracy /= count;
  outcome.finite = at::isfinite(gradient).all().item<bool>();
  return outcome;
}

// Beyond these no vector steers: the residual stream is nothing beside it, or no token's
// log-probability can have changed by so much.
constexpr double kMostResidualNorms = 100;
constexpr double kMostNatsPerToken = 1000;

constexpr const char* kAdvice =
    "the training diverged; train again with a lower --lr (or, where the model overflows in bf16, "
    "--dtype fp32)";

// One vector's training: its plan, its state and its log.
class Member {
 public:
  // `parts`: of the vector.
  Member(const TrainingMember& member, std::int64_t parts)
      : settings_(member.settings),
        record_(member.record),
        observer_(member.observer),
        plan_(member.settings.plan),
        parts_(parts) {
    std::optional<LearnedFactor>& factor = record().checkpoint.factor;
    if (settings().factor && !factor) {
      factor = LearnedFactor{static_cast<float>(settings().factor->start), 0, 0};
    }
  }

  const TrainingSettings& settings() const { return settings_; }
  const BatchPlan& plan() const { return plan_; }
  const Checkpoint& state() const { return record_.get().checkpoint; }
  std::vector<float> vector() const { return whole_vector(state()); }
  TrainingRecord& record() { return record_; }
  TrainingObserver& observer() const { return observer_; }

  // An interrupted or running file ends with the vector of its moment; only those of whole epochs
  // belong to the result.
  void drop_vectors_between_epochs() {
    std::erase_if(record().vectors, [&](const SavedVector& saved) {
      return saved.step % plan_.steps_per_epoch() != 0;
    });
  }

  // Sorts an epoch's pairs once, at the first of its steps.
  StepPlan plan_step(std::int64_t index) {
    if (const std::int32_t epoch = plan_.epoch_of(index); epoch != ordered_epoch_) {
      order_ = plan_.order(epoch);
      ordered_epoch_ = epoch;
    }
    return plan_.step(index, order_);
  }

  // Makes the step; returns why the training has diverged, "" if it has not.  A step to a vector
  // that is not finite is taken back.
  std::string update(const StepPlan& step, StepOutcome outcome, double seconds) {
    if (!outcome.finite) {
      return fmt::format("step {}: the loss or its gradient is not finite (overflow or NaN): {}",
                         step.step, kAdvice);
    }
    const Checkpoint before = state();
    Checkpoint& state = record().checkpoint;
    StepRow row = outcome.row;
    row.step = step.step;
    row.epoch = step.epoch;
    const double schedule = schedule_factor(settings().schedule, step.step, settings().warmup_steps,
                                            plan_.total_steps());
    row.lr = settings().lr * schedule;
    row.sign = step.logged_sign;
    const double by_factor = state.factor ? split_gradient(state, outcome.gradient) : 0;
    row.grad_norm = clip_norm(outcome.gradient, settings().max_grad_norm);
    settings().optimizer.update(state.vector, state.exp_avg, state.exp_avg_sq, outcome.gradient,
                                row.lr, step.step);
    settings().norm.apply(state.vector, parts_);
    if (state.factor) {
      update_factor(*state.factor, by_factor, schedule, step.step);
    }
    state.step = step.step + 1;
    row.vector_norm = vector_norm(vector());
    row.seconds = seconds;
    if (!std::isfinite(row.vector_norm)) {
      state = before;
      return fmt::format("step {}: the vector is not finite after it (overflow): {}", row.step,
                         kAdvice);
    }
    record().steps.push_back(row);
    zero_gradients_ = row.grad_norm == 0 ? zero_gradients_ + 1 : 0;
    return divergence_after(row, static_cast<double>(step.pairs));
  }

  bool ends_epoch() const {
    return state().step % plan_.steps_per_epoch() == 0 || state().step == plan_.total_steps();
  }

  std::int32_t last_epoch() const { return plan_.epoch_of(state().step - 1); }

  bool is_evaluation_due() const {
    return settings().eval_every > 0 &&
           ((last_epoch() + 1) % settings().eval_every == 0 || state().step == plan_.total_steps());
  }

  // The last one counts only with its samples, which files of earlier versions do not hold.
  bool has_evaluation() const {
    const std::vector<EvalRow>& evals = record_.get().evals;
    const std::vector<EvalSampleRow>& samples = record_.get().eval_samples;
    const bool needs_samples = state().step == plan_.total_steps();
    const bool has_samples = !samples.empty() && samples.front().step == state().step;
    return (has_samples || !needs_samples) &&
           std::any_of(evals.begin(), evals.end(),
                       [&](const EvalRow& row) { return row.step == state().step; });
  }

  // Adds the vector of the epoch that ends here.
  void keep_vector() {
    std::vector<SavedVector>& vectors = record().vectors;
    if (vectors.empty() || vectors.back().step < state().step) {
      vectors.push_back(saved_vector());
    }
  }

  // The saved record ends with the checkpoint's vector and the complete one with the result; the
  // record in memory does not.
  void save(RunStatus status) {
    std::vector<SavedVector>& vectors = record().vectors;
    const auto own = static_cast<std::ptrdiff_t>(vectors.size());
    if (state().step > 0 && (vectors.empty() || vectors.back().step != state().step)) {
      vectors.push_back(saved_vector());
    }
    if (status == RunStatus::kComplete && settings().ends_with_best) {
      end_with_best(vectors);
    }
    observer().save(record(), status);
    vectors.erase(vectors.begin() + own, vectors.end());
  }

  bool is_out_of_patience() const {
    return settings().patience > 0 &&
           evaluations_since_best(record_.get().evals) >= settings().patience;
  }

 private:
  SavedVector saved_vector() const {
    return {vector(), state().step, last_epoch(), state().factor ? state().factor->value : 1.0};
  }

  // Makes the gradient by f v that by v; returns the one by f.
  static double split_gradient(const Checkpoint& state, std::vector<double>& gradient) {
    double by_factor = 0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      by_factor += gradient[i] * state.vector[i];
      gradient[i] *= state.factor->value;
    }
    return by_factor;
  }

  void update_factor(LearnedFactor& factor, double gradient, double schedule,
                     std::int64_t step) const {
    AdamW optimizer = settings().optimizer;
    optimizer.weight_decay = 0;
    std::vector<float> value{factor.value};
    std::vector<float> exp_avg{factor.exp_avg};
    std::vector<float> exp_avg_sq{factor.exp_avg_sq};
    optimizer.update(value, exp_avg, exp_avg_sq, {gradient}, settings().factor->lr * schedule,
                     step);
    factor = {value[0], exp_avg[0], exp_avg_sq[0]};
  }

  // Repeats the row of the best epoch where it is not the last.
  void end_with_best(std::vector<SavedVector>& vectors) const {
    const auto best = best_epoch(record_.get().evals);
    const auto found = std::find_if(vectors.begin(), vectors.end(), [&](const SavedVector& saved) {
      return best && saved.step == best->step;
    });
    if (found != vectors.end() && found + 1 != vectors.end()) {
      vectors.push_back(SavedVector(*found));
    }
  }

  // Returns "" for sane numbers.  `pairs`: of the step.
  std::string divergence_after(const StepRow& row, double pairs) const {
    const double longest = kMostResidualNorms * settings().residual_norm;
    if (settings().residual_norm > 0 && row.vector_norm > longest) {
      return fmt::format(
          "step {}: |v| is {:.3g}, more than {} times the residual stream's {:.4g}: {}", row.step,
          row.vector_norm, kMostResidualNorms, settings().residual_norm, kAdvice);
    }
    // The mean per token of each of two answers may have changed so, or all tokens.
    const double nats = settings().objective.reduction == Reduction::kMean
                            ? 2 * kMostNatsPerToken
                            : kMostNatsPerToken * row.tokens / pairs;
    const double most = largest_loss(settings().objective, nats);
    if (row.loss > most) {
      return fmt::format(
          "step {}: the loss is {:.3g}, more than the {:.3g} that its tokens explain: {}", row.step,
          row.loss, most, kAdvice);
    }
    if (zero_gradients_ >= std::min(plan_.steps_per_epoch(), plan_.total_steps())) {
      return fmt::format(
          "step {}: the gradient was exactly 0 in each of the last {} steps, a whole epoch, so "
          "that nothing is learned: {}",
          row.step, zero_gradients_, advice_without_gradient(row));
    }
    return "";
  }

  // Why no gradient came, and what to change.
  std::string advice_without_gradient(const StepRow& row) const {
    // In float32 nothing is left of a sigmoid that is 0 or 1.
    constexpr double kSaturatedLoss = 1e-12;
    const ObjectiveKind kind = settings().objective.kind;
    if (row.loss < kSaturatedLoss && has_sigmoid(kind)) {
      return projects_out(kind)
                 ? "the loss is 0, because the trained answers are far the likelier ones already"
                 : "the loss is 0, because the margins are far above what it wants; train again "
                   "with a lower --beta";
    }
    const std::vector<StepRow>& steps = record_.get().steps;
    if (std::any_of(steps.begin(), steps.end(),
                    [](const StepRow& step) { return step.grad_norm != 0; })) {
      return kAdvice;
    }
    return fmt::format(
        "it was 0 from the first step on, as where no scored token of an answer sees a steered one "
        "(--positions {}; sliding windows of attention may end before it) or both answers of all "
        "pairs are the same; train again at other positions, at a lower --layer or on other "
        "pairs{}",
        to_string(settings().positions),
        projects_out(kind) ? ", or from a vector (--init random:1%), because at 0 there is nothing "
                             "to project out"
                           : "");
  }

  std::reference_wrapper<const TrainingSettings> settings_;
  std::reference_wrapper<TrainingRecord> record_;
  std::reference_wrapper<TrainingObserver> observer_;
  BatchPlan plan_;
  std::int64_t parts_;
  std::int32_t ordered_epoch_ = -1;
  std::vector<std::int64_t> order_;  // of that epoch
  std::int64_t zero_gradients_ = 0;  // steps on end, in this process
};

// Every change of a record, and every save, holds the lock of LastStep.
class Trainer {
 public:
  Trainer(const Decoder& decoder, const ActivationCache& cache, const ActivationCache* held_out,
          const SteeredLayers& layers, const std::vector<TrainingMember>& members,
          const Ranks& ranks, LastStep& last_step)
      : decoder_(decoder),
        cache_(cache),
        held_out_(held_out),
        layers_(layers),
        ranks_(ranks),
        residual_(at::TensorOptions().dtype(decoder.residual_type())),
        last_step_(last_step) {
    for (const TrainingMember& member : members) {
      members_.emplace_back(member, layers.count());
    }
    require_one_shape();
    for (Member& member : members_) {
      member.drop_vectors_between_epochs();
    }
    if (!decoder.device().is_cpu()) {
      const bool repeats = std::none_of(members.begin(), members.end(), [](const auto& member) {
        return member.settings.plan.shuffle;
      });
      device_step_.emplace(decoder, cache, layers, ranks, repeats);
    }
    if (is_writer()) {
      last_step_.begin([this] {
        if (!is_saved_for_good_) {
          save_members(RunStatus::kInterrupted);
        }
      });
    }
  }

  ~Trainer() { last_step_.end(); }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  RunStatus run() {
    const std::int64_t total = members_.front().plan().total_steps();
    if (steps_done() == 0) {
      save(RunStatus::kRunning);
    } else if (members_.front().ends_epoch()) {
      end_epoch();
      end_impatient_members();
    }
    bool is_over = steps_done() == total;
    if (!is_over) {
      const Verdict verdict = agree(/*ends_epoch=*/false);
      is_over = verdict.is_over;
      if (verdict.stop && !is_over) {
        save(RunStatus::kInterrupted);
        return RunStatus::kInterrupted;
      }
    }
    while (!is_over) {
      const std::vector<StepPlan> steps = plan_steps(steps_done());
      advance(steps);
      if (members_.empty()) {
        return RunStatus::kComplete;
      }
      const bool ends_epoch = members_.front().ends_epoch();
      if (ends_epoch) {
        end_epoch();
        end_impatient_members();
      }
      const Verdict verdict = agree(ends_epoch);
      is_over = verdict.is_over || steps_done() == total;
      if (is_over) {
        break;
      }
      if (verdict.stop) {
        save(RunStatus::kInterrupted);
        return RunStatus::kInterrupted;
      }
      if (verdict.save) {
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
    bool is_over;  // before the end of the plan
  };

  std::vector<StepPlan> plan_steps(std::int64_t index) {
    std::vector<StepPlan> steps;
    for (Member& member : members_) {
      steps.push_back(member.plan_step(index));
    }
    return steps;
  }

  std::int64_t steps_done() const { return members_.front().state().step; }

  std::int64_t vector_size() const { return layers_.count() * decoder_.config().hidden; }

  bool is_writer() const { return ranks_.world->rank() == 0; }

  void require_one_shape() const {
    const BatchPlan& first = members_.front().plan();
    for (const Member& member : members_) {
      const PlanSettings& plan = member.plan().settings();
      if (plan.pairs != first.settings().pairs || plan.batch_size != first.settings().batch_size ||
          plan.micro_batch != first.settings().micro_batch ||
          member.plan().total_steps() != first.total_steps() ||
          member.state().step != steps_done()) {
        throw BugError("vectors of different plans or at different steps in one pass");
      }
      if (std::ssize(member.state().vector) != vector_size()) {
        throw BugError(fmt::format("a vector of {} numbers for {} layers of {}",
                                   member.state().vector.size(), layers_.count(),
                                   decoder_.config().hidden));
      }
    }
  }

  bool is_mine(std::size_t micro_batch) const {
    return static_cast<int>(micro_batch % static_cast<std::size_t>(ranks_.topology.dp())) ==
           ranks_.topology.dp_rank();
  }

  static std::int64_t rows_of(const StepPlan& step) {
    return static_cast<std::int64_t>(step.passes.size()) * step.pairs;
  }

  static std::int64_t rows_of(std::span<const StepPlan> steps) {
    std::int64_t rows = 0;
    for (const StepPlan& step : steps) {
      rows += rows_of(step);
    }
    return rows;
  }

  // What this replica computes of a step; the members' figures follow one another.
  std::vector<MicroBatch> micro_batches_of(std::span<const Member> members,
                                           std::span<const StepPlan> steps) const {
    std::vector<MicroBatch> all;
    std::int64_t first_pair = 0;
    for (std::size_t m = 0; m < steps.front().micro_batches.size(); ++m) {
      if (is_mine(m)) {
        MicroBatch& micro_batch = all.emplace_back();
        micro_batch.members = static_cast<std::int64_t>(members.size());
        std::int64_t first_row = 0;
        for (std::size_t i = 0; i < steps.size(); ++i) {
          add_places(steps[i], m, first_pair, first_row, static_cast<std::int64_t>(i),
                     members[i].settings(), micro_batch.places);
          first_row += rows_of(steps[i]);
        }
      }
      first_pair += static_cast<std::int64_t>(steps.front().micro_batches[m].size());
    }
    return all;
  }

  static void add_places(const StepPlan& step, std::size_t micro_batch, std::int64_t first_pair,
                         std::int64_t first_row, std::int64_t member,
                         const TrainingSettings& settings, std::vector<PairPlace>& places) {
    for (std::size_t pass = 0; pass < step.passes.size(); ++pass) {
      std::int64_t in_batch = first_pair;
      for (const std::int64_t pair : step.micro_batches[micro_batch]) {
        const auto at = static_cast<std::size_t>(in_batch);
        places.push_back({member, pair, step.passes[pass][at], step.factors[at], settings.objective,
                          settings.positions,
                          first_row + static_cast<std::int64_t>(pass) * step.pairs + in_batch});
        ++in_batch;
      }
    }
  }

  // compute() on an accelerator, which prepares the first micro-batch of `next` on the way (none if
  // empty).
  std::vector<StepOutcome> compute_on_device(std::span<const Member> members,
                                             std::span<const StepPlan> steps,
                                             std::span<const StepPlan> next) {
    const std::vector<MicroBatch> mine = micro_batches_of(members, steps);
    const std::vector<MicroBatch> of_next =
        next.empty() ? std::vector<MicroBatch>() : micro_batches_of(members, next);
    device_step_->begin(current_vectors(members));
    for (std::size_t m = 0; m < mine.size(); ++m) {
      const MicroBatch* after = m + 1 < mine.size() ? &mine[m + 1]
                                : of_next.empty()   ? nullptr
                                                    : &of_next.front();
      device_step_->add(mine[m], after);
    }
    const auto micro_batches = static_cast<std::int64_t>(steps.front().micro_batches.size());
    const DeviceStep::Result found = device_step_->finish(micro_batches, rows_of(steps));
    if (const std::string failure = device_step_->take_failure(); !failure.empty()) {
      members.front().observer().on_warning(failure);
    }
    std::vector<StepOutcome> result;
    std::int64_t first_row = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      result.push_back(
          outcome_of(steps[i], found.gradients[static_cast<std::int64_t>(i)],
                     found.figures.narrow(1, first_row, rows_of(steps[i])).contiguous()));
      first_row += rows_of(steps[i]);
    }
    return result;
  }

  // `figures`: [2, rows], margins and minus the losses.
  StepOutcome outcome_of(const StepPlan& step, at::Tensor gradient,
                         const at::Tensor& figures) const {
    std::vector<PairOutcome> outcomes(static_cast<std::size_t>(rows_of(step)));
    const double* figure = figures.const_data_ptr<double>();
    std::vector<double> tokens;  // of the batch's pairs
    for (const std::vector<std::int64_t>& micro_batch : step.micro_batches) {
      for (const std::int64_t pair : micro_batch) {
        tokens.push_back(
            static_cast<double>(packed_size(cache_.pairs()[static_cast<std::size_t>(pair)])));
      }
    }
    for (std::size_t row = 0; row < outcomes.size(); ++row) {
      outcomes[row] = {figure[row], -figure[outcomes.size() + row], tokens[row % tokens.size()]};
    }
    if (!are_finite(outcomes)) {
      gradient.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    return summarize(gradient, outcomes);
  }

  static bool are_finite(const std::vector<PairOutcome>& outcomes) {
    return std::all_of(outcomes.begin(), outcomes.end(), [](const PairOutcome& pair) {
      return std::isfinite(pair.margin) && std::isfinite(pair.loss);
    });
  }

  // One step's forward and backward passes of `members`, reduced over the replicas; `next` is the
  // step after it, if any.
  std::vector<StepOutcome> compute(std::span<const Member> members, std::span<const StepPlan> steps,
                                   std::span<const StepPlan> next) {
    if (device_step_) {
      return compute_on_device(members, steps, next);
    }
    const std::size_t micro_batches = steps.front().micro_batches.size();
    // Members follow one another, as the rows of places say; each element is filled by one replica.
    std::vector<PairOutcome> outcomes(static_cast<std::size_t>(rows_of(steps)));
    std::vector<at::Tensor> gradients;  // [M, S D] per micro-batch of this replica
    for (const MicroBatch& micro_batch : micro_batches_of(members, steps)) {
      gradients.push_back(differentiate(members, micro_batch.places, outcomes));
    }
    std::vector<StepOutcome> result;
    auto first = outcomes.begin();
    for (std::size_t i = 0; i < members.size(); ++i) {
      std::vector<at::Tensor> terms;
      for (const at::Tensor& gradient : gradients) {
        terms.push_back(gradient.select(0, static_cast<std::int64_t>(i)));
      }
      const auto end = first + rows_of(steps[i]);
      std::vector<PairOutcome> of_member(first, end);
      result.push_back(reduce(terms, of_member, micro_batches));
      first = end;
    }
    return result;
  }

  // Fills the outcomes of the places' rows; returns the gradients [M, S D] of the members' summed
  // losses.
  at::Tensor differentiate(std::span<const Member> members, const std::vector<PairPlace>& places,
                           std::vector<PairOutcome>& outcomes) const {
    std::vector<PackItem> items;
    for (const PairPlace& p : places) {
      items.push_back(
          {p.pair, steering_choice(p.member, p.sign, p.factor, p.positions, p.objective.kind)});
    }
    const PackedPairs packed = pack_pairs(cache_.pairs(), items, decoder_);
    const at::Tensor vectors = current_vectors(members);
    vectors.set_requires_grad(true);
    const PairScores scores =
        score_pairs(decoder_, packed, cache_.activations(decoder_, packed, layers_.lowest()),
                    {layers_,
                     steering_coefficients(packed, static_cast<std::int64_t>(members.size()),
                                           decoder_.residual_type()),
                     vectors,
                     projection_shares(packed, static_cast<std::int64_t>(members.size()),
                                       decoder_.residual_type())});

    const bool has_complements = std::any_of(
        members.begin(), members.end(),
        [](const Member& member) { return uses_complements(member.settings().objective.kind); });
    const std::vector<AnswerLogProbs> complements =
        has_complements ? complement_sums(packed, scores.target_log_probs.detach())
                        : std::vector<AnswerLogProbs>(places.size());
    std::vector<double> loss_by_answer;
    std::vector<double> loss_by_complement;  // likewise
    for (std::size_t i = 0; i < places.size(); ++i) {
      const PairPlace& p = places[i];
      const auto pair = static_cast<std::size_t>(p.pair);
      const PairObjective found = pair_objective(
          p.objective, scores.answers[i],
          uses_reference(p.objective.kind) ? cache_.reference(layers_.lowest())[pair]
                                           : AnswerLogProbs{},
          answer_tokens(cache_.pairs()[pair]), static_cast<double>(p.sign), complements[i]);
      loss_by_answer.insert(loss_by_answer.end(), {found.slope.chosen, found.slope.rejected});
      loss_by_complement.insert(loss_by_complement.end(),
                                {found.complement_slope.chosen, found.complement_slope.rejected});
      outcomes[static_cast<std::size_t>(p.row)] = {
          found.margin, found.loss, static_cast<double>(packed_size(cache_.pairs()[pair]))};
    }
    std::vector<double> loss_by_target;
    for (const std::int64_t answer : packed.answer_of_target) {
      loss_by_target.push_back(loss_by_answer[static_cast<std::size_t>(answer)]);
    }
    if (has_complements) {
      add_complements(packed, scores.target_log_probs.detach(), loss_by_complement, loss_by_target);
    }
    scores.target_log_probs.backward(at::tensor(loss_by_target, at::kDouble).to(residual_));
    return vectors.grad();
  }

  // Adds to the slopes by the targets' log-probabilities [R] those that go by log(1 - pi), of which
  // `by_answer` has the sums' slopes.
  static void add_complements(const PackedPairs& packed, const at::Tensor& log_probs,
                              const std::vector<double>& by_answer,
                              std::vector<double>& by_target) {
    const at::Tensor on_host = log_probs.to(at::kCPU, at::kDouble);
    const double* log_prob = on_host.const_data_ptr<double>();
    for (std::size_t r = 0; r < by_target.size(); ++r) {
      const double slope = by_answer[static_cast<std::size_t>(packed.answer_of_target[r])];
      if (slope != 0) {
        by_target[r] += slope * complement(log_prob[r]).slope;
      }
    }
  }

  // [M, S D] on the host.
  at::Tensor current_vectors(std::span<const Member> members) const {
    std::vector<at::Tensor> rows;
    for (const Member& member : members) {
      rows.push_back(at::tensor(member.vector(), at::kFloat));
    }
    return at::stack(rows).to(residual_);
  }

  // `gradients`: one member's, of each of this replica's micro-batches.
  StepOutcome reduce(const std::vector<at::Tensor>& gradients, std::vector<PairOutcome>& outcomes,
                     std::size_t micro_batches) const {
    at::Tensor gradient = exact_sum(gradients, vector_size(), decoder_.device(),
                                    static_cast<std::int64_t>(micro_batches), *ranks_.dp);
    share_rows(outcomes, decoder_.device(), ranks_);
    // All ranks must agree whether the step can be made.
    if (!are_finite(outcomes)) {
      gradient.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    // The tp ranks' gradients may differ in the last bits; their vectors must not.
    if (ranks_.tp->size() > 1) {
      ranks_.tp->broadcast(gradient, 0);
    }
    return summarize(gradient, outcomes);
  }

  // Each member in passes of its own.  In common ones, what is not finite of one reaches the
  // others: coefficients of 0 separate their rows, and 0 times infinity is not 0.
  std::vector<StepOutcome> compute_apart(const std::vector<StepPlan>& steps) {
    std::vector<StepOutcome> outcomes;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      outcomes.push_back(compute({&members_[i], 1}, {&steps[i], 1}, {}).front());
    }
    return outcomes;
  }

  void advance(const std::vector<StepPlan>& steps) {
    const auto begin = Clock::now();
    const std::int64_t after = steps_done() + 1;
    const std::vector<StepPlan> next = device_step_ && after < members_.front().plan().total_steps()
                                           ? plan_steps(after)
                                           : std::vector<StepPlan>();
    std::vector<StepOutcome> outcomes = compute(members_, steps, next);
    const bool all_finite = std::all_of(outcomes.begin(), outcomes.end(),
                                        [](const StepOutcome& outcome) { return outcome.finite; });
    if (!all_finite) {
      outcomes = compute_apart(steps);
    }
    const double seconds = seconds_since(begin);
    complete_step(steps, std::move(outcomes), seconds);
    for (Member& member : members_) {
      member.observer().on_step(member.record().steps.back());
    }
  }

  void complete_step(const std::vector<StepPlan>& steps, std::vector<StepOutcome> outcomes,
                     double seconds) {
    const auto lock = last_step_.lock();
    std::vector<Member> remaining;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      const std::string divergence = members_[i].update(steps[i], std::move(outcomes[i]), seconds);
      if (divergence.empty()) {
        remaining.push_back(std::move(members_[i]));
        continue;
      }
      if (is_writer()) {
        members_[i].save(RunStatus::kDiverged);
      }
      is_saved_for_good_ = members_.size() == 1;  // should on_failure() throw
      members_[i].observer().on_failure(divergence);
    }
    members_ = std::move(remaining);
    is_saved_for_good_ = false;
  }

  // Does what is due at the end of an epoch and not in the record yet.
  void end_epoch() {
    const std::vector<bool> needs_evaluation = find_missing_evaluations();
    for (std::size_t i = 0; i < members_.size(); ++i) {
      Member& member = members_[i];
      const Checkpoint& state = member.state();
      const TrainingSettings& settings = member.settings();
      {
        const auto lock = last_step_.lock();
        member.keep_vector();
      }
      if (!needs_evaluation[i]) {
        continue;
      }
      const ScoringContext context{decoder_, ranks_, held_out_->settings().group_size, {}};
      auto [rows, samples] =
          evaluate_pairs(context, *held_out_, layers_, member.vector(), settings.multipliers,
                         settings.objective, settings.positions);
      const auto date = [&](auto& row) {
        row.step = state.step;
        row.epoch = member.last_epoch();
      };
      std::for_each(rows.begin(), rows.end(), date);
      std::for_each(samples.begin(), samples.end(), date);
      {
        const auto lock = last_step_.lock();
        std::vector<EvalRow>& evals = member.record().evals;
        std::erase_if(evals, [&](const EvalRow& row) { return row.step == state.step; });
        evals.insert(evals.end(), rows.begin(), rows.end());
        member.record().eval_samples = std::move(samples);
        is_saved_for_good_ = false;
      }
      member.observer().on_evaluation(rows);
    }
  }

  // Completes the members that are out of patience, unless all are, which ends the training, or
  // their plan ends here anyway.
  void end_impatient_members() {
    const bool are_patient =
        std::none_of(members_.begin(), members_.end(),
                     [](const Member& member) { return member.settings().patience > 0; });
    if (are_patient || members_.size() == 1 ||
        steps_done() == members_.front().plan().total_steps()) {
      return;
    }
    // World rank 0 decides, as for evaluations.
    const at::Tensor flags = at::zeros({static_cast<std::int64_t>(members_.size())}, at::kLong);
    for (std::size_t i = 0; i < members_.size(); ++i) {
      flags[static_cast<std::int64_t>(i)] = members_[i].is_out_of_patience() ? 1 : 0;
    }
    ranks_.world->broadcast(flags, 0);
    const auto ended = flags.sum().item<std::int64_t>();
    if (ended == 0 || ended == flags.numel()) {
      return;
    }
    check_same_vectors();
    const auto lock = last_step_.lock();
    std::vector<Member> remaining;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      if (flags[static_cast<std::int64_t>(i)].item<std::int64_t>() == 0) {
        remaining.push_back(std::move(members_[i]));
        continue;
      }
      if (is_writer()) {
        members_[i].save(RunStatus::kComplete);
      }
      members_[i].observer().on_early_end();
    }
    members_ = std::move(remaining);
  }

  // World rank 0 decides: other ranks of a continued pack have no log.
  std::vector<bool> find_missing_evaluations() const {
    const at::Tensor needs = at::zeros({static_cast<std::int64_t>(members_.size())}, at::kLong);
    for (std::size_t i = 0; i < members_.size(); ++i) {
      needs[static_cast<std::int64_t>(i)] =
          held_out_ != nullptr && members_[i].is_evaluation_due() && !members_[i].has_evaluation()
              ? 1
              : 0;
    }
    ranks_.world->broadcast(needs, 0);
    std::vector<bool> result;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      result.push_back(needs[static_cast<std::int64_t>(i)].item<std::int64_t>() != 0);
    }
    return result;
  }

  // One rank's stop stops all; world rank 0's clock decides when to save, its log when the
  // training has lost its patience.
  Verdict agree(bool ends_epoch) {
    const bool stop = is_stop_requested();
    const bool save = is_save_due(ends_epoch);
    const bool is_over = std::all_of(members_.begin(), members_.end(), [](const Member& member) {
      return member.is_out_of_patience();
    });
    const at::Tensor wishes = at::zeros({3}, at::kLong);
    wishes[0] = stop ? 1 : 0;
    wishes[1] = save && is_writer() ? 1 : 0;
    wishes[2] = is_over && is_writer() ? 1 : 0;
    ranks_.world->all_reduce(wishes, ReduceOp::kMax);
    const auto wished = [&](std::int64_t i) { return wishes[i].item<std::int64_t>() != 0; };
    return {wished(0), wished(1), wished(2)};
  }

  // A save rewrites the whole log, so that its cost grows with the run: it is due only where it
  // takes about a hundredth of the time, unless the user wants one after every step.
  bool is_save_due(bool ends_epoch) const {
    const double wanted = members_.front().settings().save_every;
    constexpr double kLeastShare = 100;
    const double pause =
        wanted == 0 ? 0 : std::max(ends_epoch ? 0 : wanted, kLeastShare * seconds_of_save_);
    return seconds_since(last_save_) >= pause;
  }

  bool is_stop_requested() {
    const auto lock = last_step_.lock();
    return std::any_of(members_.begin(), members_.end(),
                       [](Member& member) { return member.observer().stop_requested(); });
  }

  void save(RunStatus status) {
    check_same_vectors();
    const auto begin = Clock::now();
    if (is_writer()) {
      const auto lock = last_step_.lock();
      save_members(status);
    }
    last_save_ = Clock::now();
    seconds_of_save_ = std::chrono::duration<double>(last_save_ - begin).count();
  }

  // Requires the lock.
  void save_members(RunStatus status) {
    for (Member& member : members_) {
      member.save(status);
    }
    is_saved_for_good_ = status != RunStatus::kRunning;
  }

  // Without this check, a vector that differs between ranks would be saved as if it were right.
  void check_same_vectors() const {
    ContentHash hash;
    for (const Member& member : members_) {
      const std::vector<float>& vector = member.state().vector;
      hash.add_bytes(vector.data(), vector.size() * sizeof(float));
      if (const std::optional<LearnedFactor>& factor = member.state().factor) {
        hash.add_bytes(&factor->value, sizeof(float));
      }
    }
    const at::Tensor mine = at::full({1}, static_cast<std::int64_t>(hash.value()), at::kLong);
    const at::Tensor all = ranks_.world->all_gather(mine);
    if (!all.eq(mine).all().item<bool>()) {
      throw BugError(fmt::format("rank {}: the ranks' vectors differ after step {}",
                                 ranks_.world->rank(), steps_done()));
    }
  }

  const Decoder& decoder_;
  const ActivationCache& cache_;
  const ActivationCache* held_out_;
  SteeredLayers layers_;
  const Ranks& ranks_;
  at::TensorOptions residual_;  // on the host
  std::vector<Member> members_;
  std::optional<DeviceStep> device_step_;       // where the model is not on the CPU
  Clock::time_point last_save_ = Clock::now();  // when it ended
  double seconds_of_save_ = 0;
  LastStep& last_step_;
  bool is_saved_for_good_ = false;  // as interrupted or complete, with nothing new since
};

}  // namespace

void LastStep::begin(std::function<void()> save) {
  const std::lock_guard lock(mutex_);
  save_ = std::move(save);
}

void LastStep::end() {
  const std::lock_guard lock(mutex_);
  save_ = nullptr;
}

void LastStep::save() {
  const std::lock_guard lock(mutex_);
  if (save_) {
    save_();
  }
}

void check_zero_vector(const Decoder& decoder, const ActivationCache& cache, std::int64_t layer,
                       const Ranks& ranks) {
  const SingleThreadedBackward single_threaded;
  const auto group_index = static_cast<std::size_t>(ranks.topology.dp_rank());
  if (group_index >= cache.groups().size()) {
    return;
  }
  const auto& group = cache.groups()[group_index];
  const PackedPairs packed = pack_alike(cache.pairs(), group, decoder);
  const at::TensorOptions residual = residual_options(decoder);
  const at::Tensor zero = at::zeros({1, decoder.config().hidden}, residual).set_requires_grad(true);
  const Steering steering{SteeredLayers(layer).at(cache.settings().site),
                          at::ones({1, packed.tokens()}, residual), zero};
  const PairScores scores =
      score_pairs(decoder, packed, cache.activations(decoder, packed, layer), steering);
  // Rounding errors of one float32 product of length D, summed as a random walk over the blocks,
  // relative to the log-probability and to logits of the order of ten per token.
  const double relative =
      std::numeric_limits<float>::epsilon() *
      std::sqrt(static_cast<double>(decoder.config().hidden * decoder.config().blocks));
  const auto is_near = [&](double found, double expected, const std::vector<TokenId>& answer) {
    return std::abs(found - expected) <=
           relative * (std::abs(expected) + 10.0 * static_cast<double>(answer.size()));
  };
  for (std::size_t p = 0; p < group.size(); ++p) {
    const TokenPair& pair = cache.pairs()[static_cast<std::size_t>(group[p])];
    const AnswerLogProbs& expected = cache.reference(layer)[static_cast<std::size_t>(group[p])];
    const AnswerLogProbs& found = scores.answers[p];
    if (!is_near(found.chosen, expected.chosen, pair.chosen) ||
        !is_near(found.rejected, expected.rejected, pair.rejected)) {
      throw BugError(fmt::format(
          "{}: at v = 0 the policy's log-probabilities {:.9g} / {:.9g} differ from the reference's "
          "{:.9g} / {:.9g}",
          pair.where, found.chosen, found.rejected, expected.chosen, expected.rejected));
    }
  }
}

RunStatus train(const Decoder& decoder, const ActivationCache& cache,
                const ActivationCache* held_out, const SteeredLayers& layers,
                const std::vector<TrainingMember>& members, const Ranks& ranks,
                LastStep& last_step) {
  const SingleThreadedBackward single_threaded;
  return Trainer(decoder, cache, held_out, layers, members, ranks, last_step).run();
}

RunStatus train(const Decoder& decoder, const ActivationCache& cache,
                const ActivationCache* held_out, const SteeredLayers& layers,
                const std::vector<TrainingMember>& members, const Ranks& ranks) {
  LastStep last_step;
  return train(decoder, cache, held_out, layers, members, ranks, last_step);
}

}  // namespace bipo
