// A group of ranks on loan to a Ranks, which owns its communicators.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "collectives/communicator.hpp"

namespace bipo::testing {

// The group must outlive it.
class BorrowedCommunicator final : public Communicator {
 public:
  explicit BorrowedCommunicator(Communicator& group) : group_(group) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  std::string_view backend() const override { return group_.backend(); }
  void barrier() override { group_.barrier(); }

 private:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    group_.all_reduce(tensor, op);
  }
  void do_broadcast(const at::Tensor& tensor, int root) override { group_.broadcast(tensor, root); }
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    gathered.copy_(group_.all_gather(tensor));
  }
  bool moves_memory_of(const at::Device&) const override { return true; }

  Communicator& group_;
};

}  // namespace bipo::testing
