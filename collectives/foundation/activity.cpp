#include "collectives/foundation/activity.hpp"

#include <fmt/format.h>

#include <atomic>
#include <mutex>

namespace bipo {
namespace {

struct Activity {
  std::mutex mutex;
  std::string name;
  std::int64_t done = 0;
  std::int64_t total = 0;
};

// Is never destroyed: a thread that still watches may ask while the process ends.
Activity& current() {
  static auto* const instance = new Activity;
  return *instance;
}

std::atomic<bool> unfinished_line{false};

}  // namespace

void set_activity(std::string_view name, std::int64_t done, std::int64_t total) {
  Activity& now = current();
  const std::lock_guard lock(now.mutex);
  now.name = name;
  now.done = done;
  now.total = total;
}

std::string activity() {
  Activity& now = current();
  const std::lock_guard lock(now.mutex);
  return now.name.empty() ? "" : fmt::format("{} {}/{}", now.name, now.done, now.total);
}

void note_unfinished_line(bool is_there) {
  unfinished_line = is_there;
}

bool has_unfinished_line() {
  return unfinished_line;
}

}  // namespace bipo
