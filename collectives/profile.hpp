// How a step spends its time: seconds by kind of work, recorded only while a profile is taken.
#pragma once

#include <c10/core/Device.h>

#include <array>
#include <cstddef>
#include <optional>

namespace bipo {

enum class Work { kProducts, kAttention, kRecurrence, kHead, kElementwise, kCollectives };
inline constexpr std::size_t kWorkKinds = 6;

// Seconds by kind of work since take_profile(device), of the calling thread, which works on that
// device.  On an accelerator the timers wait for each piece of work, which slows the run down:
// shares are meaningful, the sum is not a step time.
using WorkSeconds = std::array<double, kWorkKinds>;
void take_profile(std::optional<c10::Device> device);  // starts from zero; nothing: ends it
const WorkSeconds& profiled_seconds();
bool is_profiled();  // whether one is being taken

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
