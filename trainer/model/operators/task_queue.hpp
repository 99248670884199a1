// Work shared over the threads of a process, task by task.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>

namespace bipo {

// Numbers of tasks, each handed out once, to whichever thread asks next: a thread that the machine
// keeps from running leaves the rest to the others, where a fixed share would make them wait for
// it.
class TaskQueue {
 public:
  explicit TaskQueue(std::int64_t count) : count_(count) {}

  // Returns the next task, or nothing if all are taken.
  std::optional<std::int64_t> next() {
    const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_ ? std::optional(task) : std::nullopt;
  }

 private:
  std::atomic<std::int64_t> next_{0};
  std::int64_t count_;
};

// Calls work(queue) once in each of libtorch's threads; what tasks compute must not depend on which
// thread takes them.  Returns when all are done; throws what one of them threw.
template <class Work>
void share_tasks(std::int64_t count, const Work& work) {
  TaskQueue queue(count);
  const std::int64_t threads = std::min<std::int64_t>(count, at::get_num_threads());
  at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    if (begin < end) {
      work(queue);
    }
  });
}

// Calls work(begin, end) for ranges of at most `grain` of `count` rows.
template <class Work>
void share_row_ranges(std::int64_t count, std::int64_t grain, const Work& work) {
  share_tasks((count + grain - 1) / grain, [&](TaskQueue& queue) {
    while (const auto task = queue.next()) {
      work(*task * grain, std::min(count, (*task + 1) * grain));
    }
  });
}

}  // namespace bipo
