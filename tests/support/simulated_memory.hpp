// The memory of the simulated device, and the order of what streams do to it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace bipo::testing {

constexpr int kSimulatedDevices = 4;

// A stream of a device, by number; for each, how many of its operations are done before something
// else.
using StreamKey = std::pair<c10::DeviceIndex, c10::StreamId>;
using StreamTimes = std::map<StreamKey, std::int64_t>;

// All devices' memory.  Safe for threads.
class SimulatedMemory {
 public:
  static SimulatedMemory& get();

  char* allocate(std::size_t bytes, c10::DeviceIndex device);
  void free(char* begin);

  // Opens the allocation that `begin` starts to the host (+1), or ends that (-1); openings nest.
  void open(const void* begin, int change);

  // Notes that `stream` reads or writes the allocation as its next operation.  Throws where another
  // stream's use of it is not known to be done.
  void use(const void* begin, const c10::Stream& stream, bool writes);

  // Returns what is done when all that `stream` was asked so far is; puts it before what `stream`
  // is asked next.
  StreamTimes times_of(const c10::Stream& stream);
  void order_after(const StreamTimes& times, const c10::Stream& stream);

  // Remembers a copy that `stream` makes on its own time.  `host`: the host's side.
  void copy_to_host_later(const at::Tensor& host, const at::Tensor& values,
                          const c10::Stream& stream);
  void watch_source(const at::Tensor& host, const c10::Stream& stream);

  // The host has waited for `times`: delivers the copies that end by then, and checks the sources
  // of those.
  void arrive(const StreamTimes& times);

  void set_limit(std::int64_t bytes);
  std::int64_t limit();
  std::int64_t in_use(c10::DeviceIndex device);
  std::int64_t peak(c10::DeviceIndex device);
  void reset_peak(c10::DeviceIndex device);

 private:
  struct Use {
    StreamKey stream;
    std::int64_t time = 0;
  };
  struct Region {
    std::size_t mapped = 0;
    std::size_t asked = 0;
    c10::DeviceIndex device = 0;
    int openings = 0;
    Use write;
    StreamTimes reads;
  };
  struct Pending {
    Use use;
    bool to_host = true;
    at::Tensor host;
    at::Tensor values;  // to be delivered, or those of the source when the copy was asked for
  };

  Region& region(const void* begin);
  bool is_done(const Use& use, const StreamKey& stream) const;
  static void report_fault(int, siginfo_t* info, void*);
  SimulatedMemory();

  std::mutex mutex_;
  std::map<const char*, Region> regions_;
  std::map<StreamKey, std::int64_t> now_;   // operations asked of each stream
  std::map<StreamKey, StreamTimes> known_;  // done before the next operation of a stream
  std::vector<Pending> pending_;
  std::int64_t limit_ = std::int64_t{1} << 40;
  std::array<std::int64_t, kSimulatedDevices> in_use_{};
  std::array<std::int64_t, kSimulatedDevices> peak_{};
};

// Host memory that the device reads by itself.
c10::Allocator& pinned_memory();
bool is_pinned_memory(const void* address);

}  // namespace bipo::testing
