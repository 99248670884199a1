#include "collectives/nccl_communicator.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/transport_versions.hpp"

namespace bipo {
namespace {

void check_nccl(ncclResult_t result, ncclComm_t communicator, const char* call) {
  if (result != ncclSuccess && result != ncclInProgress) {
    throw EnvironmentError(fmt::format("NCCL: {} failed: {} ({})", call, ncclGetErrorString(result),
                                       ncclGetLastError(communicator)));
  }
}

void check_cuda(cudaError_t result, const char* what) {
  if (result != cudaSuccess) {
    throw EnvironmentError(fmt::format("CUDA: {} in {}", cudaGetErrorString(result), what));
  }
}

ncclDataType_t nccl_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    default:
      throw BugError(fmt::format("NCCL communicator: no type for {}", c10::toString(type)));
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
  }
  throw BugError("NCCL communicator: unknown reduction");
}

// What the ranks of a group know about the start of NCCL on all of them.
struct StartOfAll {
  bool failed = false;
  bool unfinished = false;
};

// Collective over: host_group
StartOfAll agree_on_start(Communicator& host_group, bool failed, bool unfinished) {
  const at::Tensor any = at::zeros({2}, at::kLong);
  any[0] = failed ? 1 : 0;
  any[1] = unfinished ? 1 : 0;
  host_group.all_reduce(any, ReduceOp::kMax);
  return {any[0].item<std::int64_t>() != 0, any[1].item<std::int64_t>() != 0};
}

// Ends of operations on a stream: events without times, which are used again.
class Events {
 public:
  Events() = default;
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
  ~Events() {
    for (const cudaEvent_t event : free_) {
      cudaEventDestroy(event);
    }
  }

  cudaEvent_t take() {
    if (free_.empty()) {
      cudaEvent_t event = nullptr;
      check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                 "cudaEventCreateWithFlags");
      return event;
    }
    const cudaEvent_t event = free_.back();
    free_.pop_back();
    return event;
  }

  void give_back(cudaEvent_t event) { free_.push_back(event); }

 private:
  std::vector<cudaEvent_t> free_;
};

// Operations are put on the current stream, and the host goes on; it waits at most until NCCL has
// accepted one.  The watch's thread looks after those under way: it asks progress() now and then.
class NcclCommunicator final : public Communicator {
 public:
  // Returns when NCCL reports the communicator ready on every rank; `group` is its number in
  // `watch`.  Throws on every rank if it fails on one: NCCL itself would let the others wait for
  // that one.  Collective over: host_group
  NcclCommunicator(const ncclUniqueId& id, Communicator& host_group, Watch* watch, int group)
      : watch_(watch),
        group_(group),
        rank_(host_group.rank()),
        size_(host_group.size()),
        device_(c10::cuda::current_device()) {
    const Waiting waiting(watch_, group_, "the start of NCCL");
    try {
      start(id, host_group);
    } catch (...) {
      abandon();
      throw;
    }
    if (watch_ != nullptr) {
      watch_->watch_device(group_, [this] { return progress(); });
    }
  }

  ~NcclCommunicator() override {
    end();
    if (watch_ != nullptr) {
      watch_->forget(group_);  // from here on its thread does not call progress()
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "nccl"; }

  // The host waits for it.
  void barrier() override {
    const at::Tensor token =
        at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(at::kCUDA));
    do_all_reduce(token, ReduceOp::kSum);
    const Waiting waiting(watch_, group_, "a barrier of NCCL");
    while (!is_idle()) {
      std::this_thread::yield();
    }
  }

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    run("ncclAllReduce", "an all-reduce of NCCL", tensor, [&](cudaStream_t stream) {
      return ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), nccl_op(op), communicator_, stream);
    });
  }

  void do_broadcast(const at::Tensor& tensor, int root) override {
    run("ncclBroadcast", "a broadcast of NCCL", tensor, [&](cudaStream_t stream) {
      return ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), root, communicator_, stream);
    });
  }

  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    run("ncclAllGather", "an all-gather of NCCL", tensor, [&](cudaStream_t stream) {
      return ncclAllGather(tensor.data_ptr(), gathered.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), communicator_, stream);
    });
  }

  bool moves_memory_of(const at::Device& device) const override { return device.is_cuda(); }

 private:
  // An operation on the stream.
  struct UnderWay {
    std::uint64_t number = 0;  // of this communicator, from 1
    std::uint64_t begun = 0;   // of the group, for the watch
    const char* operation = "";
    std::size_t bytes = 0;
    std::chrono::steady_clock::time_point asked;
    cudaEvent_t end = nullptr;

    std::string name() const {
      return fmt::format("{} (number {}, {} bytes)", operation, number, bytes);
    }
  };

  void start(const ncclUniqueId& id, Communicator& host_group) {
    constexpr const char* kCall = "ncclCommInitRankConfig";
    constexpr auto kBetweenAgreements = std::chrono::milliseconds(20);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    std::string failure;
    bool begun = false;
    StartOfAll all{.failed = false, .unfinished = true};
    while (all.unfinished) {
      bool ready = false;
      try {
        if (!begun) {
          begun = true;
          check_nccl(ncclCommInitRankConfig(&communicator_, size_, id, rank_, &config),
                     communicator_, kCall);
        }
        ready = is_accepted_within(kBetweenAgreements, kCall);
      } catch (const EnvironmentError& error) {
        failure = error.what();
      }
      all = agree_on_start(host_group, !failure.empty(), !ready);
      if (all.failed) {
        throw EnvironmentError(
            failure.empty() ? "NCCL: another rank could not join the communicator" : failure);
      }
    }
  }

  void end() {
    const std::lock_guard lock(mutex_);
    if (communicator_ == nullptr) {
      return;
    }
    if (std::uncaught_exceptions() > 0) {
      abandon();  // finalising is collective; the other ranks may not call it
      return;
    }
    try {
      const Waiting waiting(watch_, group_, "the end of NCCL");
      check_nccl(ncclCommFinalize(communicator_), communicator_, "ncclCommFinalize");
      wait_until_accepted("ncclCommFinalize");
      ncclCommDestroy(communicator_);
      communicator_ = nullptr;
      forget_operations();
    } catch (const EnvironmentError&) {
      abandon();
    }
  }

  // Puts an operation on the stream.  A communicator that has failed takes no more work; it is
  // aborted at once, because its end would wait for the operation.
  template <class Start>
  void run(const char* call, const char* operation, const at::Tensor& tensor, const Start& start) {
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const Waiting waiting(watch_, group_, operation);
    const std::lock_guard lock(mutex_);
    if (communicator_ == nullptr) {
      throw EnvironmentError(fmt::format("NCCL: {} after the communicator has failed", call));
    }
    try {
      check_nccl(start(stream), communicator_, call);
      wait_until_accepted(call);
      const UnderWay& last = under_way_.emplace_back(
          UnderWay{++operations_, watch_ == nullptr ? 0 : watch_->begun(group_), operation,
                   tensor.nbytes(), std::chrono::steady_clock::now(), events_.take()});
      check_cuda(cudaEventRecord(last.end, stream), "cudaEventRecord");
      drop_ended();
    } catch (const EnvironmentError&) {
      abandon();
      throw;
    }
  }

  static std::size_t count(const at::Tensor& tensor) {
    return static_cast<std::size_t>(tensor.numel());
  }

  // Whether the work is on the stream: a non-blocking communicator returns before that, and only
  // then accepts more.
  bool is_accepted(const char* call) {
    ncclResult_t state = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(communicator_, &state), communicator_,
               "ncclCommGetAsyncError");
    check_nccl(state, communicator_, call);
    return state == ncclSuccess;
  }

  void wait_until_accepted(const char* call) {
    while (!is_accepted(call)) {
      std::this_thread::yield();
    }
  }

  bool is_accepted_within(std::chrono::milliseconds limit, const char* call) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    bool accepted = is_accepted(call);
    while (!accepted && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
      accepted = is_accepted(call);
    }
    return accepted;
  }

  // Requires the lock, as do those that follow.
  void drop_ended() {
    while (!under_way_.empty()) {
      const UnderWay& oldest = under_way_.front();
      const cudaError_t state = cudaEventQuery(oldest.end);
      if (state == cudaErrorNotReady) {
        cudaGetLastError();  // else the next kernel's launch is taken for failed
        return;
      }
      check_cuda(state, oldest.operation);
      events_.give_back(oldest.end);
      under_way_.pop_front();
    }
  }

  void require_health() {
    ncclResult_t state = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(communicator_, &state), communicator_,
               "ncclCommGetAsyncError");
    check_nccl(state, communicator_,
               under_way_.empty() ? "a communicator" : under_way_.front().operation);
  }

  void forget_operations() {
    for (const UnderWay& operation : under_way_) {
      events_.give_back(operation.end);
    }
    under_way_.clear();
  }

  void abandon() noexcept {
    if (communicator_ != nullptr) {
      ncclCommAbort(communicator_);
      communicator_ = nullptr;
      forget_operations();
    }
  }

  // Whether all operations have ended.
  bool is_idle() {
    const std::lock_guard lock(mutex_);
    if (communicator_ == nullptr) {
      throw EnvironmentError("NCCL: the communicator has failed");
    }
    try {
      drop_ended();
      require_health();
    } catch (const EnvironmentError&) {
      abandon();
      throw;
    }
    return under_way_.empty();
  }

  // For the watch's thread, which must not wait: while this rank's main thread is in an operation,
  // there is no news.
  DeviceProgress progress() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || communicator_ == nullptr) {
      return {};
    }
    DeviceProgress progress;
    try {
      // A thread that has selected no device would make a context on the first one.
      check_cuda(cudaSetDevice(device_), "cudaSetDevice");
      // Else an event that is asked for here spoils a graph that the main thread captures.
      cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
      check_cuda(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
      drop_ended();
      require_health();
    } catch (const EnvironmentError& error) {
      progress.failure = error.what();
    }
    if (!under_way_.empty()) {
      const UnderWay& oldest = under_way_.front();
      progress.oldest = {oldest.begun, oldest.name(), oldest.asked, oldest.number == 1};
      if (!progress.failure.empty()) {
        const std::chrono::duration<double> since = std::chrono::steady_clock::now() - oldest.asked;
        progress.failure = fmt::format("{}, {} after it was asked for: {}", oldest.name(),
                                       duration_text(since.count()), progress.failure);
      }
    }
    return progress;
  }

  Watch* watch_;
  int group_;
  int rank_;
  int size_;
  int device_;

  // What follows belongs to the mutex, which the watch's thread takes too.
  std::mutex mutex_;
  ncclComm_t communicator_ = nullptr;
  std::uint64_t operations_ = 0;
  Events events_;
  std::deque<UnderWay> under_way_;  // in the order of the stream
};

std::string version_text(int number) {  // 10,000 x major + 100 x minor + patch
  return fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
}

// Returns host and PCI address of the selected device.
at::Tensor device_identity() {
  char text[64 + 32] = {};
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  char bus[32] = {};
  check_cuda(cudaDeviceGetPCIBusId(bus, sizeof(bus), c10::cuda::current_device()),
             "cudaDeviceGetPCIBusId");
  const std::string identity = fmt::format("{} {}", host, bus);
  std::strncpy(text, identity.c_str(), sizeof(text) - 1);
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(sizeof(text))}, at::kByte);
  std::memcpy(bytes.data_ptr(), text, sizeof(text));
  return bytes;
}

// Throws on every rank of the group if any rank has a `failure`.
void require_success_everywhere(Communicator& host_group, const std::string& failure) {
  const at::Tensor failed = at::full({1}, failure.empty() ? 0 : 1, at::kLong);
  host_group.all_reduce(failed, ReduceOp::kMax);
  if (failed.item<std::int64_t>() != 0) {
    throw EnvironmentError(failure.empty() ? "NCCL: another rank could not join the communicator"
                                           : failure);
  }
}

}  // namespace

std::string find_shared_device(Communicator& world) {
  const at::Tensor all = world.all_gather(device_identity());
  for (int a = 0; a < world.size(); ++a) {
    for (int b = a + 1; b < world.size(); ++b) {
      if (all[a].equal(all[b])) {
        return fmt::format(
            "ranks {} and {} are on the same CUDA device ({}); start one rank per device (the "
            "slices that MIG makes of a GPU count as one)",
            a, b, reinterpret_cast<const char*>(all[a].data_ptr()));
      }
    }
  }
  return "";
}

std::string nccl_version() {
  int number = 0;
  ncclGetVersion(&number);
  return version_text(number);
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host_group, Watch* watch,
                                                     std::vector<int> world_ranks) {
  int linked = 0;
  ncclGetVersion(&linked);
  if (linked != NCCL_VERSION_CODE) {
    throw EnvironmentError(
        fmt::format("NCCL: this program was built with version {}, but {} was loaded: use the "
                    "nvidia-nccl package that torch itself asks for, and take other folders with a "
                    "libnccl.so.2 out of LD_LIBRARY_PATH",
                    version_text(NCCL_VERSION_CODE), version_text(linked)));
  }
  ncclUniqueId id{};
  std::string failure;
  if (host_group.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) {
      failure = fmt::format("NCCL: ncclGetUniqueId failed: {}", ncclGetErrorString(result));
    }
  }
  require_success_everywhere(host_group, failure);
  at::Tensor id_bytes = at::empty({static_cast<std::int64_t>(sizeof(id))}, at::kByte);
  std::memcpy(id_bytes.data_ptr(), &id, sizeof(id));
  host_group.broadcast(id_bytes, 0);
  std::memcpy(&id, id_bytes.data_ptr(), sizeof(id));

  const int group = watch == nullptr ? 0 : watch->add_group(std::move(world_ranks));
  return std::make_unique<NcclCommunicator>(id, host_group, watch, group);
}

}  // namespace bipo
