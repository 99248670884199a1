#include "tests/support/simulated_memory.hpp"

#include <ATen/ATen.h>
#include <execinfo.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bipo::testing {
namespace {

constexpr std::size_t kPage = 4096;
constexpr int kFaultExitCode = 77;

StreamKey key_of(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

std::int64_t time_in(const StreamTimes& times, const StreamKey& stream) {
  const auto found = times.find(stream);
  return found == times.end() ? 0 : found->second;
}

void raise_to(StreamTimes& times, const StreamTimes& others) {
  for (const auto& [stream, time] : others) {
    times[stream] = std::max(times[stream], time);
  }
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

}  // namespace

SimulatedMemory& SimulatedMemory::get() {
  static SimulatedMemory* memory = new SimulatedMemory;  // outlives every tensor
  return *memory;
}

SimulatedMemory::SimulatedMemory() {
  struct sigaction action {};
  action.sa_sigaction = &report_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, nullptr);
  ::sigaction(SIGBUS, &action, nullptr);
}

// Takes no lock: the thread that failed may hold it.
void SimulatedMemory::report_fault(int, siginfo_t* info, void*) {
  char text[256];
  const char* address = static_cast<const char*>(info->si_addr);
  int length = std::snprintf(text, sizeof(text), "\nfault at %p\n", info->si_addr);
  for (const auto& [begin, region] : get().regions_) {
    if (address >= begin && address < begin + region.mapped) {
      length = std::snprintf(text, sizeof(text),
                             "\nthe host touched byte %ld of device memory of %zu bytes\n",
                             static_cast<long>(address - begin), region.asked);
    }
  }
  (void)!::write(STDERR_FILENO, text, static_cast<std::size_t>(length));
  void* frames[40];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 40), STDERR_FILENO);
  ::_exit(kFaultExitCode);
}

char* SimulatedMemory::allocate(std::size_t bytes, c10::DeviceIndex device) {
  const auto size = static_cast<std::int64_t>(bytes);
  const auto index = static_cast<std::size_t>(device);
  const std::lock_guard lock(mutex_);
  if (in_use_[index] + size > limit_) {
    C10_THROW_ERROR(OutOfMemoryError, "simulated device: out of memory: " + std::to_string(size) +
                                          " bytes asked, " +
                                          std::to_string(limit_ - in_use_[index]) + " free");
  }
  const std::size_t mapped = (bytes + kPage - 1) / kPage * kPage;
  void* begin = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(begin != MAP_FAILED, "simulated device: the host has no memory for it");
  std::memset(begin, 0xff, mapped);
  ::mprotect(begin, mapped, PROT_NONE);
  Region& region = regions_[static_cast<char*>(begin)];
  region.mapped = mapped;
  region.asked = bytes;
  region.device = device;
  in_use_[index] += size;
  peak_[index] = std::max(peak_[index], in_use_[index]);
  return static_cast<char*>(begin);
}

void SimulatedMemory::free(char* begin) {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(begin);
  in_use_[static_cast<std::size_t>(found->second.device)] -=
      static_cast<std::int64_t>(found->second.asked);
  ::munmap(begin, found->second.mapped);
  regions_.erase(found);
}

SimulatedMemory::Region& SimulatedMemory::region(const void* begin) {
  const auto found = regions_.find(static_cast<const char*>(begin));
  TORCH_CHECK(found != regions_.end(), "simulated device: a device tensor over other memory");
  return found->second;
}

void SimulatedMemory::open(const void* begin, int change) {
  const std::lock_guard lock(mutex_);
  Region& opened = region(begin);
  const int before = opened.openings;
  opened.openings += change;
  if ((before == 0) != (opened.openings == 0)) {
    ::mprotect(const_cast<void*>(begin), opened.mapped,
               before == 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
}

bool SimulatedMemory::is_done(const Use& use, const StreamKey& stream) const {
  if (use.time == 0 || use.stream == stream) {
    return true;
  }
  const auto known = known_.find(stream);
  return known != known_.end() && time_in(known->second, use.stream) >= use.time;
}

void SimulatedMemory::use(const void* begin, const c10::Stream& stream, bool writes) {
  const std::lock_guard lock(mutex_);
  Region& used = region(begin);
  const StreamKey key = key_of(stream);
  const auto require_done = [&](const Use& earlier, const char* what) {
    TORCH_CHECK(is_done(earlier, key), "simulated device: stream ", key.second,
                " uses memory that stream ", earlier.stream.second, " ", what,
                ", and waits for no event after that");
  };
  require_done(used.write, "has written");
  const std::int64_t time = ++now_[key];
  if (!writes) {
    used.reads[key] = time;
    return;
  }
  for (const auto& [reader, at] : used.reads) {
    require_done({reader, at}, "reads");
  }
  used.reads.clear();
  used.write = {key, time};
}

StreamTimes SimulatedMemory::times_of(const c10::Stream& stream) {
  const std::lock_guard lock(mutex_);
  const StreamKey key = key_of(stream);
  StreamTimes times = known_[key];
  times[key] = now_[key];
  return times;
}

void SimulatedMemory::order_after(const StreamTimes& times, const c10::Stream& stream) {
  const std::lock_guard lock(mutex_);
  raise_to(known_[key_of(stream)], times);
}

void SimulatedMemory::copy_to_host_later(const at::Tensor& host, const at::Tensor& values,
                                         const c10::Stream& stream) {
  const std::lock_guard lock(mutex_);
  std::memset(host.mutable_data_ptr(), 0xff, host.nbytes());
  pending_.push_back({{key_of(stream), now_[key_of(stream)]}, true, host, values});
}

void SimulatedMemory::watch_source(const at::Tensor& host, const c10::Stream& stream) {
  const std::lock_guard lock(mutex_);
  pending_.push_back({{key_of(stream), now_[key_of(stream)]}, false, host, host.clone()});
}

void SimulatedMemory::arrive(const StreamTimes& times) {
  const std::lock_guard lock(mutex_);
  const auto is_later = [&](const Pending& copy) {
    return copy.use.time > time_in(times, copy.use.stream);
  };
  const auto arrived = std::stable_partition(pending_.begin(), pending_.end(), is_later);
  bool changed = false;
  for (auto copy = arrived; copy != pending_.end(); ++copy) {
    if (copy->to_host) {
      std::memcpy(copy->host.mutable_data_ptr(), copy->values.const_data_ptr(),
                  copy->host.nbytes());
    } else {
      changed = changed || !same_bytes(copy->host, copy->values);
    }
  }
  pending_.erase(arrived, pending_.end());
  TORCH_CHECK(
      !changed,
      "simulated device: the host changed the source of an asynchronous copy before its end");
}

void SimulatedMemory::set_limit(std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
}

std::int64_t SimulatedMemory::limit() {
  const std::lock_guard lock(mutex_);
  return limit_;
}

std::int64_t SimulatedMemory::in_use(c10::DeviceIndex device) {
  const std::lock_guard lock(mutex_);
  return in_use_[static_cast<std::size_t>(device)];
}

std::int64_t SimulatedMemory::peak(c10::DeviceIndex device) {
  const std::lock_guard lock(mutex_);
  return peak_[static_cast<std::size_t>(device)];
}

void SimulatedMemory::reset_peak(c10::DeviceIndex device) {
  const std::lock_guard lock(mutex_);
  peak_[static_cast<std::size_t>(device)] = in_use_[static_cast<std::size_t>(device)];
}

namespace {

std::mutex pinned_mutex;
std::map<const char*, std::size_t> pinned_ranges;

void delete_pinned(void* begin) {
  const std::lock_guard lock(pinned_mutex);
  pinned_ranges.erase(static_cast<const char*>(begin));
  std::free(begin);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* begin = std::malloc(std::max<std::size_t>(bytes, 1));
    const std::lock_guard lock(pinned_mutex);
    pinned_ranges[static_cast<const char*>(begin)] = bytes;
    return {begin, begin, &delete_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &delete_pinned; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

c10::Allocator& pinned_memory() {
  static PinnedAllocator* allocator = new PinnedAllocator;
  return *allocator;
}

bool is_pinned_memory(const void* address) {
  const std::lock_guard lock(pinned_mutex);
  auto next = pinned_ranges.upper_bound(static_cast<const char*>(address));
  if (next == pinned_ranges.begin()) {
    return false;
  }
  --next;
  return static_cast<const char*>(address) < next->first + next->second;
}

}  // namespace bipo::testing
