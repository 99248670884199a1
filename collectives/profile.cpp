#include "collectives/profile.hpp"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

struct Profile {
  bool on = false;
  WorkSeconds seconds{};
  Clock::time_point since;  // the innermost timer was last started or resumed
};

thread_local Profile profile;
thread_local WorkTimer* innermost = nullptr;

// Launched work must end before the clock is read.
void wait_for_device() {
  if (at::globalContext().hasCUDA()) {
    at::detail::getCUDAHooks().deviceSynchronize(
        static_cast<c10::DeviceIndex>(at::detail::getCUDAHooks().getCurrentDevice()));
  }
}

}  // namespace

void take_profile(bool on) {
  profile.on = on;
  if (on) {
    profile.seconds = {};
  }
}

const WorkSeconds& profiled_seconds() {
  return profile.seconds;
}

void WorkTimer::credit(Work work) {
  wait_for_device();
  const auto now = Clock::now();
  profile.seconds[static_cast<std::size_t>(work)] +=
      std::chrono::duration<double>(now - profile.since).count();
  profile.since = now;
}

WorkTimer::WorkTimer(Work work) : work_(work), outer_(innermost) {
  innermost = this;
  if (!profile.on) {
    return;
  }
  if (outer_ != nullptr) {
    credit(outer_->work_);
  }
  profile.since = Clock::now();
}

WorkTimer::~WorkTimer() {
  if (profile.on) {
    credit(work_);
  }
  innermost = outer_;
}

}  // namespace bipo
