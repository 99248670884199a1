#pragma once

#include <cstddef>
#include <functional>

namespace bipo {

// Runs `work`, which takes its pieces from a common list and throws nothing, in this thread and in
// up to `threads` - 1 others; returns when all have ended.  Where the system grants no further
// thread, those that are there do the work.
void run_in_threads(std::size_t threads, const std::function<void()>& work);

}  // namespace bipo
