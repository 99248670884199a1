// Collectives over MPI, in host memory; included only by the sources that call MPI.
#pragma once

#include <mpi.h>

#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/watch/watch.hpp"

namespace bipo {

// Throws EnvironmentError with the failed call and MPI's own message unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

// Names the call in the error.
#define BIPO_MPI(call) ::bipo::check_mpi((call), #call)

class MpiCommunicator final : public Communicator {
 public:
  // Takes ownership of `communicator`; MPI must stay initialised while this object lives, and so
  // must `watch`, which may be null and otherwise watches over the waits.
  MpiCommunicator(MPI_Comm communicator, Watch* watch);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "mpi"; }
  void barrier() override;

  // Makes this group known to a watch that had to wait for the first exchanges; to be called once,
  // where the constructor got none.
  void watch_with(Watch& watch);
  int watched_group() const { return group_; }  // its number in the watch
  std::vector<int> members() const;             // their ranks in the world

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override;
  void do_broadcast(const at::Tensor& tensor, int root) override;
  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override;
  bool moves_memory_of(const at::Device& device) const override;

 private:
  MPI_Comm communicator_;
  Watch* watch_ = nullptr;
  int group_ = 0;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace bipo
