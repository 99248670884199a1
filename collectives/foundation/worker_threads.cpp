#include "collectives/foundation/worker_threads.hpp"

#include <system_error>
#include <thread>
#include <vector>

namespace bipo {

void run_in_threads(std::size_t threads, const std::function<void()>& work) {
  std::vector<std::jthread> others;
  try {
    for (std::size_t i = 1; i < threads; ++i) {
      others.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // As many as there are will do.
  }
  work();
}

}  // namespace bipo
