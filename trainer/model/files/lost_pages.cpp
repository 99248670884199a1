#include "trainer/model/files/lost_pages.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

namespace bipo {

// A mapping, or room for one; the signal handler reads the list of them without a lock, so that a
// place is never freed.
struct LostPageReport::Place {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;  // 0: free
  std::atomic<const char*> path = nullptr;
  Place* next = nullptr;
};

namespace {

using Place = LostPageReport::Place;

constexpr int kFailure = 1;

std::atomic<Place*> first_place{nullptr};
struct sigaction action_before {};

void say(const char* text) {
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Calls nothing but what is safe in a signal handler.
void report_lost_page(int, siginfo_t* signal, void*) {
  const bool is_sent = signal->si_code <= 0;  // by a process, and about no address
  const auto address = reinterpret_cast<std::uintptr_t>(signal->si_addr);
  for (Place* place = first_place; place != nullptr; place = place->next) {
    if (!is_sent && address >= place->begin && address < place->end) {
      // Copied, so that lines of several ranks and threads do not mix.
      static std::array<char, 8192> line;
      std::size_t used = 0;
      for (const char* part :
           {"bipo-dist: ", static_cast<const char*>(place->path),
            ": became shorter while it was read, or its disk failed: put the whole file back, and "
            "start the same command again\n"}) {
        const std::size_t count = std::min(std::strlen(part), line.size() - 1 - used);
        std::memcpy(line.data() + used, part, count);
        used += count;
      }
      say(line.data());
      ::_exit(kFailure);
    }
  }
  // The instruction is run again after this, and the signal then goes where it went before.
  ::sigaction(SIGBUS, &action_before, nullptr);
  if (is_sent) {
    ::raise(SIGBUS);
  }
}

void install_once() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = report_lost_page;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return ::sigaction(SIGBUS, &action, &action_before) == 0;
  }();
  static_cast<void>(installed);
}

std::mutex& list_mutex() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

Place* free_place() {
  for (Place* place = first_place; place != nullptr; place = place->next) {
    if (place->end == 0) {
      return place;
    }
  }
  auto* place = new Place;
  place->next = first_place;
  first_place = place;
  return place;
}

}  // namespace

void LostPageReport::begin(std::span<const std::byte> mapping, const char* path) {
  install_once();
  const std::lock_guard lock(list_mutex());
  place_ = free_place();
  place_->path = path;
  place_->begin = reinterpret_cast<std::uintptr_t>(mapping.data());
  place_->end = place_->begin + mapping.size();
}

LostPageReport::~LostPageReport() {
  if (place_ != nullptr) {
    const std::lock_guard lock(list_mutex());
    place_->end = 0;
  }
}

}  // namespace bipo
