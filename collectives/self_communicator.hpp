// The group of one rank.
#pragma once

#include "collectives/communicator.hpp"

namespace bipo {

// Every collective is the identity.  A real implementation, not a special case: callers run the
// same code with it as with any other.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string_view backend() const override { return "self"; }
  void barrier() override {}

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override;
  void do_broadcast(const at::Tensor& tensor, int root) override;
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override;
  bool moves_memory_of(const at::Device& device) const override;
};

}  // namespace bipo
