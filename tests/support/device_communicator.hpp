// Ranks as threads of one process, each with a simulated device of its own.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "collectives/self_communicator.hpp"
#include "collectives/session.hpp"
#include "tests/support/simulated_device.hpp"
#include "tests/support/thread_communicator.hpp"

namespace bipo::testing {

// Moves device memory by a communicator of host memory, and takes device memory only, as NCCL does:
// on the current stream, so that asynchronous copies do not arrive for it.  None of it counts as
// the caller's copies and kernels.
class DeviceCommunicator final : public Communicator {
 public:
  explicit DeviceCommunicator(std::unique_ptr<Communicator> host) : host_(std::move(host)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string_view backend() const override { return "simulated device"; }
  void barrier() override { host_->barrier(); }
  std::int64_t calls() const { return calls_; }

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    move(tensor, [&](const at::Tensor& on_host) { host_->all_reduce(on_host, op); });
  }
  void do_broadcast(const at::Tensor& tensor, int root) override {
    move(tensor, [&](const at::Tensor& on_host) { host_->broadcast(on_host, root); });
  }
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    ++calls_;
    at::Tensor own;
    run_on_stream(tensor, [&](const at::Tensor& on_host) { own = on_host.clone(); });
    run_on_stream(gathered,
                  [&](const at::Tensor& on_host) { on_host.copy_(host_->all_gather(own)); });
  }
  bool moves_memory_of(const at::Device& device) const override {
    return device.is_privateuseone();
  }

 private:
  template <class Exchange>
  void move(const at::Tensor& tensor, const Exchange& exchange) {
    ++calls_;
    run_on_stream(tensor, exchange);
  }

  std::unique_ptr<Communicator> host_;
  std::int64_t calls_ = 0;
};

// Runs body(ranks) for tp x dp ranks on threads; dp and tp groups move the memory of the ranks'
// devices.  Rethrows the first exception.
inline void run_on_devices(int tp, int dp, const std::function<void(Ranks&)>& body) {
  const int size = tp * dp;
  std::vector<std::unique_ptr<Meeting>> meetings;
  const auto meetings_of = [&](int count, int members) {
    std::vector<Meeting*> made;
    for (int i = 0; i < count; ++i) {
      made.push_back(meetings.emplace_back(std::make_unique<Meeting>(members)).get());
    }
    return made;
  };
  const std::vector<Meeting*> node = meetings_of(1, size);
  const std::vector<Meeting*> dps = meetings_of(tp, dp);
  const std::vector<Meeting*> tps = meetings_of(dp, tp);
  const auto on_device = [](Meeting* where, int rank,
                            int members) -> std::unique_ptr<Communicator> {
    if (members == 1) {
      return std::make_unique<SelfCommunicator>();
    }
    return std::make_unique<DeviceCommunicator>(
        std::make_unique<ThreadCommunicator>(*where, rank, members));
  };
  run_as_threads(size, [&](Communicator& world) {
    const Topology topology(size, world.rank(), tp, std::nullopt);
    const auto in_node = [&] {
      return std::make_unique<ThreadCommunicator>(*node.front(), world.rank(), size);
    };
    Ranks ranks{
        topology, in_node(), in_node(),
        on_device(dps[static_cast<std::size_t>(topology.tp_rank())], topology.dp_rank(), dp),
        on_device(tps[static_cast<std::size_t>(topology.dp_rank())], topology.tp_rank(), tp)};
    try {
      body(ranks);
    } catch (...) {
      for (const auto& meeting : meetings) {
        meeting->break_up();
      }
      throw;
    }
  });
}

}  // namespace bipo::testing
