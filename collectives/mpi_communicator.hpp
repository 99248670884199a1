// Collectives over MPI, in host memory.
#pragma once

#include "collectives/communicator.hpp"
#include "collectives/mpi_calls.hpp"

namespace bipo {

class MpiCommunicator final : public Communicator {
 public:
  // Takes ownership of `communicator`; MPI must stay initialised as long as this object lives.
  explicit MpiCommunicator(MPI_Comm communicator);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "mpi"; }
  void barrier() override;

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override;
  void do_broadcast(const at::Tensor& tensor, int root) override;
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override;
  bool moves_memory_of(const at::Device& device) const override;

 private:
  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace bipo
