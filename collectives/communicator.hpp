// The one interface through which ranks exchange tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace bipo {

enum class ReduceOp { kSum, kMax, kMin };

// A group of ranks.  Every operation is collective over the group: all its ranks call it, in the
// same order, with tensors of the same element type and count.  Counts are elements, never bytes.
//
// Tensors must be contiguous, of type float32, float64, int64 or uint8, and lie in the memory that
// the implementation moves (see backend()).  Operations return when the result is there, on the
// CPU; on CUDA they are ordered on the current stream.
//
// Errors: BugError for a tensor that breaks these rules, EnvironmentError when the transport fails.
class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // "self" (any memory), "mpi" and "threads" (host memory), "nccl" (CUDA memory).
  virtual std::string_view backend() const = 0;

  // In place: every rank ends with the reduction over the group.  Floating-point sums may depend on
  // the group's size and the transport's algorithm (exact_sum.hpp has the one that does not).
  void all_reduce(const at::Tensor& tensor, ReduceOp op);

  // In place: every rank ends with the root's elements.
  void broadcast(const at::Tensor& tensor, int root);

  // [size, ...shape of tensor]: every rank's tensor, in rank order.
  at::Tensor all_gather(const at::Tensor& tensor);

  virtual void barrier() = 0;

 protected:
  // The rules above hold for these arguments, and there is at least one element.
  virtual void do_all_reduce(const at::Tensor& tensor, ReduceOp op) = 0;
  virtual void do_broadcast(const at::Tensor& tensor, int root) = 0;
  virtual void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) = 0;
  virtual bool moves_memory_of(const at::Device& device) const = 0;

 private:
  void check(const at::Tensor& tensor, std::string_view operation) const;
};

}  // namespace bipo
