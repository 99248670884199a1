// AdamW on the steering vector, and its learning-rate schedule.
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

// Factor on the learning rate at update `step` (from 0): linear from 0 over `warmup` steps, then
// half a cosine down to 0 at `total`, as transformers' get_cosine_schedule_with_warmup.
double cosine_with_warmup(std::int64_t step, std::int64_t warmup, std::int64_t total);

// Scales `gradient` down to `max_norm` where it is longer (0: never), as torch's clip_grad_norm_;
// returns the norm it had.
double clip_norm(std::vector<double>& gradient, double max_norm);

}  // namespace bipo
