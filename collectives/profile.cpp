#include "collectives/profile.hpp"

#include <chrono>

#include "collectives/device.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

struct Profile {
  std::optional<c10::Device> device;  // nothing: no profile is taken
  WorkSeconds seconds{};
  Clock::time_point since;  // the innermost timer was last started or resumed
};

thread_local Profile profile;
thread_local WorkTimer* innermost = nullptr;

}  // namespace

void take_profile(std::optional<c10::Device> device) {
  profile.device = device;
  if (device) {
    profile.seconds = {};
  }
}

bool is_profiled() {
  return profile.device.has_value();
}

const WorkSeconds& profiled_seconds() {
  return profile.seconds;
}

void WorkTimer::credit(Work work) {
  synchronize_device(*profile.device);  // launched work must end before the clock is read
  const auto now = Clock::now();
  profile.seconds[static_cast<std::size_t>(work)] +=
      std::chrono::duration<double>(now - profile.since).count();
  profile.since = now;
}

WorkTimer::WorkTimer(Work work) : work_(work), outer_(innermost) {
  innermost = this;
  if (!profile.device) {
    return;
  }
  if (outer_ != nullptr) {
    credit(outer_->work_);
  }
  profile.since = Clock::now();
}

WorkTimer::~WorkTimer() {
  if (profile.device) {
    credit(work_);
  }
  innermost = outer_;
}

}  // namespace bipo
