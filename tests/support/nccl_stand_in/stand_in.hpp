// NCCL and CUDA's streams without a GPU: ranks are threads, device memory is host memory that says
// it is CUDA's.
//
// Like NCCL's non-blocking communicators, this one returns ncclInProgress and accepts nothing more
// until ncclCommGetAsyncError() says ncclSuccess.  An operation is done, as cudaEventQuery() tells
// of an event behind it, when every rank of the communicator has asked for it and for those before.
// A call that NCCL forbids, ranks that ask for different operations, and an error of CUDA that the
// next kernel's launch would find, are kept as complaints.
#pragma once

#include <nccl.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace bipo::testing::stand_in {

struct Faults {
  int polls_until_accepted = 3;   // of ncclCommGetAsyncError, for every call
  int polls_until_done = 3;       // of cudaEventQuery, after all ranks have asked for the operation
  std::string failing_call = {};  // fails at once, on rank `failing_rank`
  std::string failing_later = {};  // is accepted there, and fails while it runs
  int failing_rank = 1;
  bool same_bus = false;  // all ranks have the same device
  int version = NCCL_VERSION_CODE;
  cudaError_t count_of_devices = cudaSuccess;  // what cudaGetDeviceCount() returns
  int driver = 13000;                          // 0: there is none
};

// Forgets everything, and begins with `faults`.
void begin(const Faults& faults);

// From now on a thread of no rank captures a graph, so that a thread may ask for events in the
// relaxed mode only.
void begin_capture();

// Names this thread's rank, whose device has the same number.
void set_rank(int rank);

// From now on every communicator has failed, as after the death of a peer's process; every stream
// has.
void fail_everyone();
void fail_streams();

struct Ends {
  int finalized = 0;
  int destroyed = 0;
  int aborted = 0;
  int open = 0;    // communicators that are neither destroyed nor aborted
  int events = 0;  // that are not destroyed
};
Ends ends();
std::vector<std::string> complaints();

// Returns a tensor of CUDA's with these values.
at::Tensor on_cuda(const at::Tensor& host);
// Return the values of one: when this thread's stream has done what it was asked for, and as they
// lie in its memory now.
at::Tensor on_host(const at::Tensor& cuda);
at::Tensor as_it_is(const at::Tensor& cuda);

}  // namespace bipo::testing::stand_in
