// The results of a training run as plain data: log rows, vectors and checkpoint.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace bipo {

// D: numbers of a vector: the hidden size, times the number of layers that it steers, part by part.

// kDiverged: the numbers left every sane range, so that neither the vector nor a continuation is of
// use.
enum class RunStatus { kRunning, kComplete, kInterrupted, kDiverged };

// One optimiser step.  `loss` is taken before the update, `grad_norm` before clipping,
// `vector_norm` after the update.
struct StepRow {
  std::int64_t step = 0;   // from 0
  std::int32_t epoch = 0;  // from 0
  double lr = 0;
  double loss = 0;       // nats, mean over the batch
  double margin = 0;     // mean of the objective's margin, in BiPO d * beta * delta
  double accuracy = 0;   // share of pairs with a margin above 0
  std::int8_t sign = 0;  // d; 0 where the step has no single sign
  double grad_norm = 0;
  double vector_norm = 0;
  double tokens = 0;   // of the batch's pairs, each packed by itself: a prompt once, both answers
  double seconds = 0;  // wall time of the step on the writing rank
};

// The held-out pairs at one multiplier.
struct EvalRow {
  std::int64_t step = 0;   // updates done
  std::int32_t epoch = 0;  // epoch that had just ended (or was under way), from 0
  double multiplier = 0;
  double pairs = 0;
  double loss = 0;      // of the objective, mean; in BiPO of -log sigmoid(beta * delta_m), nats
  double margin = 0;    // of the objective, mean; in BiPO of beta * delta_m
  double accuracy = 0;  // share of pairs whose chosen answer is the likelier one, by its reduction
  double chosen_logp = 0;    // mean over pairs, nats
  double rejected_logp = 0;  // mean over pairs, nats
};

// One held-out pair at one multiplier.
struct EvalSampleRow {
  std::int64_t step = 0;   // as in EvalRow
  std::int32_t epoch = 0;  // as in EvalRow
  double multiplier = 0;
  std::int64_t pair = 0;     // from 0
  double chosen_logp = 0;    // nats
  double rejected_logp = 0;  // nats
};

struct SavedVector {
  std::vector<float> value;  // [D], a learned factor included
  std::int64_t step = 0;     // updates done
  std::int32_t epoch = 0;
  double factor = 1;  // the learned factor; 1 where none is learned
};

// A number by which the trained vector is multiplied, trained with it; its AdamW moments.
struct LearnedFactor {
  float value = 1;
  float exp_avg = 0;
  float exp_avg_sq = 0;
};

// Everything needed to continue: the sampler needs the settings and the step only, because every
// random choice is a function of (seed, epoch, index).
struct Checkpoint {
  std::vector<float> vector;      // [D], without the learned factor
  std::vector<float> exp_avg;     // [D] AdamW first moment
  std::vector<float> exp_avg_sq;  // [D] AdamW second moment
  std::int64_t step = 0;          // updates done
  std::uint64_t seed = 0;
  std::optional<LearnedFactor> factor = {};  // where one is learned
};

// Returns the vector that is added: the checkpoint's times its learned factor, in float32.
inline std::vector<float> whole_vector(const Checkpoint& checkpoint) {
  std::vector<float> vector = checkpoint.vector;
  if (checkpoint.factor) {
    for (float& value : vector) {
      value *= checkpoint.factor->value;
    }
  }
  return vector;
}

// The run so far.
struct TrainingRecord {
  std::vector<StepRow> steps;
  std::vector<EvalRow> evals;
  std::vector<SavedVector> vectors;
  Checkpoint checkpoint;
  std::vector<EvalSampleRow> eval_samples = {};  // of the last evaluation alone
};

// Returns the record before the first step: the vector [D = numbers] and its moments are zeros.
inline TrainingRecord starting_record(std::int64_t numbers, std::uint64_t seed) {
  const std::vector<float> zeros(static_cast<std::size_t>(numbers), 0.0F);
  return {{}, {}, {}, {zeros, zeros, zeros, 0, seed}};
}

// Returns the Euclidean norm of a vector or gradient, accumulated in double precision.
template <typename Numbers>
double vector_norm(const Numbers& values) {
  double squares = 0;
  for (const auto value : values) {
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  return std::sqrt(squares);
}

}  // namespace bipo
