// AdamW on the steering vector, its learning-rate schedule, its start and the control of its norm.
#pragma once

#include <cstdint>
#include <vector>

namespace bipo {

// D hidden.  Loshchilov and Hutter, arXiv 1711.05101, algorithm 2: weight decay is decoupled and
// scaled by the learning rate, as in torch.optim.AdamW.
struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;

  // One update of `vector` [D] and its moments in place; `step` counts from 0.
  void update(std::vector<float>& vector, std::vector<float>& exp_avg,
              std::vector<float>& exp_avg_sq, const std::vector<double>& gradient, double lr,
              std::int64_t step) const;
};

// The learning rate after the warm-up: half a cosine or a line down to 0, or no change.
enum class Schedule { kCosine, kLinear, kConstant };

// Returns the factor on the learning rate at update `step` (from 0): linear from 0 over `warmup`
// steps, then as the schedule says, down to 0 at `total`: transformers'
// get_{cosine,linear,constant}_schedule_with_warmup.
double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t warmup,
                       std::int64_t total);

// What becomes of the vector's norm after an update: nothing; it is scaled down to `norm` where it
// is longer; or it is scaled to `norm` always.
enum class NormRule { kFree, kMax, kFixed };

struct NormControl {
  NormRule rule = NormRule::kFree;
  double norm = 0;  // above 0, unless the rule is kFree

  // Scales each of `parts` equal parts of `vector` [parts D] in place by its own norm; leaves zeros
  // and what is not finite as they are.
  void apply(std::vector<float>& vector, std::int64_t parts = 1) const;
};

// Returns a vector of `parts` parts [D = hidden], each in a random direction, the same for the same
// seed: normal numbers, scaled to `norm`.  The first part does not depend on how many there are.
std::vector<float> random_start(std::int64_t hidden, double norm, std::uint64_t seed,
                                std::int64_t parts = 1);

// Scales `gradient` down to `max_norm` where it is longer (0: never), as torch's clip_grad_norm_;
// returns the norm it had.
double clip_norm(std::vector<double>& gradient, double max_norm);

}  // namespace bipo
