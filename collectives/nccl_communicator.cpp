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
#include <cstring>
#include <exception>
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

class NcclCommunicator final : public Communicator {
 public:
  // Returns when NCCL reports the communicator ready on every rank; `group` is its number in
  // `watch`.  Throws on every rank if it fails on one: NCCL itself would let the others wait for
  // that one.  Collective over: host_group
  NcclCommunicator(const ncclUniqueId& id, Communicator& host_group, Watch* watch, int group)
      : watch_(watch), group_(group), rank_(host_group.rank()), size_(host_group.size()) {
    const Waiting waiting(watch_, group_, "the start of NCCL");
    try {
      start(id, host_group);
    } catch (...) {
      abandon();
      throw;
    }
  }

  ~NcclCommunicator() override {
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
    } catch (const EnvironmentError&) {
      abandon();
    }
    if (watch_ != nullptr) {
      watch_->forget(group_);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "nccl"; }

  void barrier() override {
    const at::Tensor token =
        at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(at::kCUDA));
    do_all_reduce(token, ReduceOp::kSum);
  }

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    run("ncclAllReduce", "an all-reduce of NCCL", [&](cudaStream_t stream) {
      return ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), nccl_op(op), communicator_, stream);
    });
  }

  void do_broadcast(const at::Tensor& tensor, int root) override {
    run("ncclBroadcast", "a broadcast of NCCL", [&](cudaStream_t stream) {
      return ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), root, communicator_, stream);
    });
  }

  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    run("ncclAllGather", "an all-gather of NCCL", [&](cudaStream_t stream) {
      return ncclAllGather(tensor.data_ptr(), gathered.data_ptr(), count(tensor),
                           nccl_type(tensor.scalar_type()), communicator_, stream);
    });
  }

  bool moves_memory_of(const at::Device& device) const override { return device.is_cuda(); }

 private:
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

  // Starts an operation and waits for its end.  A communicator that has failed takes no more work;
  // it is aborted at once, because its end would wait for the operation.
  template <class Start>
  void run(const char* call, const char* operation, const Start& start) {
    if (communicator_ == nullptr) {
      throw EnvironmentError(fmt::format("NCCL: {} after the communicator has failed", call));
    }
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const Waiting waiting(watch_, group_, operation);
    try {
      check_nccl(start(stream), communicator_, call);
      wait(call, stream);
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

  // Polls for the end of the work, so that an error of NCCL does not hang this rank in a later
  // synchronisation that cannot be interrupted.
  void wait(const char* call, cudaStream_t stream) {
    wait_until_accepted(call);
    for (;;) {
      const cudaError_t progress = cudaStreamQuery(stream);
      if (progress == cudaSuccess) {
        return;
      }
      if (progress != cudaErrorNotReady) {
        throw EnvironmentError(
            fmt::format("CUDA: {} while waiting for {}", cudaGetErrorString(progress), call));
      }
      ncclResult_t state = ncclSuccess;
      check_nccl(ncclCommGetAsyncError(communicator_, &state), communicator_,
                 "ncclCommGetAsyncError");
      check_nccl(state, communicator_, call);
      std::this_thread::yield();
    }
  }

  void abandon() noexcept {
    if (communicator_ != nullptr) {
      ncclCommAbort(communicator_);
      communicator_ = nullptr;
    }
  }

  ncclComm_t communicator_ = nullptr;
  Watch* watch_;
  int group_;
  int rank_;
  int size_;
};

// Returns host and PCI address of the selected device.
at::Tensor device_identity() {
  char text[64 + 32] = {};
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  char bus[32] = {};
  cudaDeviceGetPCIBusId(bus, sizeof(bus), c10::cuda::current_device());
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
            "ranks {} and {} are on the same CUDA device ({}); start one rank per device", a, b,
            reinterpret_cast<const char*>(all[a].data_ptr()));
      }
    }
  }
  return "";
}

std::string nccl_version() {
  int number = 0;  // 10,000 x major + 100 x minor + patch
  ncclGetVersion(&number);
  return fmt::format("{}.{}.{}", number / 10000, number / 100 % 100, number % 100);
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host_group, Watch* watch,
                                                     std::vector<int> world_ranks) {
  int linked = 0;
  ncclGetVersion(&linked);
  if (linked != NCCL_VERSION_CODE) {
    throw EnvironmentError(
        fmt::format("NCCL: built for version code {}, running with {}", NCCL_VERSION_CODE, linked));
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
