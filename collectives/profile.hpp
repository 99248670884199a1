// How a step spends its time: seconds by kind of work, recorded only while a profile is taken.
#pragma once

#include <array>
#include <cstddef>

namespace bipo {

enum class Work { kProducts, kAttention, kHead, kElementwise, kCollectives };
inline constexpr std::size_t kWorkKinds = 5;

// Seconds by kind of work since take_profile(true), of the calling thread.  On CUDA the timers wait
// for each piece of work, which slows the run down: shares are meaningful, the sum is not a step
// time.
using WorkSeconds = std::array<double, kWorkKinds>;
void take_profile(bool on);  // on: starts from zero
const WorkSeconds& profiled_seconds();

// Counts its lifetime as `work`; of nested timers only the innermost counts.
class WorkTimer {
 public:
  explicit WorkTimer(Work work);
  ~WorkTimer();
  WorkTimer(const WorkTimer&) = delete;
  WorkTimer& operator=(const WorkTimer&) = delete;

 private:
  static void credit(Work work);

  Work work_;
  WorkTimer* outer_;
};

}  // namespace bipo
