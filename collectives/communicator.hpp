// The one interface through which ranks exchange tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace bipo {

enum class ReduceOp { kSum, kMax, kMin };

// A group of ranks.  Every operation is collective over the group: all its ranks call it, in the
// same order, with tensors of the same element type and count.  Counts are elements, never bytes.
//
// Tensors must be contiguous, of type float32, float64, int64 or uint8, in the memory that the
// implementation moves (see backend()).  On the CPU an operation returns when its result is ready;
// on CUDA it is ordered on the current stream.
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
  // "self" (any memory), "mpi" (host memory) or "nccl" (CUDA memory).
  virtual std::string_view backend() const = 0;

  // In place: every rank ends with the reduction over the group.  Floating-point sums may depend on
  // the group's size and the transport's algorithm; exact_sum() does not.
  void all_reduce(const at::Tensor& tensor, ReduceOp op);

  // In place: every rank ends with the root's elements.
  void broadcast(const at::Tensor& tensor, int root);

  // Returns every rank's tensor, in rank order: [size, ...shape of tensor].
  at::Tensor all_gather(const at::Tensor& tensor);

  virtual void barrier() = 0;

 protected:
  // The arguments obey the rules above and have at least one element.
  virtual void do_all_reduce(const at::Tensor& tensor, ReduceOp op) = 0;
  virtual void do_broadcast(const at::Tensor& tensor, int root) = 0;
  virtual void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) = 0;
  virtual bool moves_memory_of(const at::Device& device) const = 0;

 private:
  void check(const at::Tensor& tensor, std::string_view operation) const;
};

// Return the reduction of every rank's `value`, the same on all ranks; a sum of doubles within the
// limits that Communicator::all_reduce() states.  Unsigned values and their sum must be below 2^63.
// `group` must move host memory.  Collective over: group
std::int64_t all_reduced(std::int64_t value, ReduceOp op, Communicator& group);
std::uint64_t all_reduced(std::uint64_t value, ReduceOp op, Communicator& group);
double all_reduced(double value, ReduceOp op, Communicator& group);

// Whether `value` is true on every rank.  Collective over: group
bool holds_on_all(bool value, Communicator& group);

}  // namespace bipo
