// The group of one rank.
#pragma once

#include "collectives/communicator.hpp"

namespace bipo {

// Every collective is the identity, so that callers need no special case for one rank.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string_view backend() const override { return "self"; }
  void barrier() override {}

 protected:
  void do_all_reduce(const at::Tensor&, ReduceOp) override {}
  void do_broadcast(const at::Tensor&, int) override {}
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    gathered.copy_(tensor.unsqueeze(0));
  }
  bool moves_memory_of(const at::Device&) const override { return true; }
};

}  // namespace bipo
