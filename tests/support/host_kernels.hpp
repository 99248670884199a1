// The kernels of device_kernels.cuh, compiled by the C++ compiler and run by the calling thread.
#pragma once

#include "trainer/model/device_kernels/kernel_runner.hpp"

namespace bipo::testing {

// Runs the call on memory that the host can touch.  Throws BugError for a kernel or a type that
// there is not.
void run_on_host(const KernelCall& call);

class HostKernels final : public KernelRunner {
 public:
  void run(const KernelCall& call) override { run_on_host(call); }
};

}  // namespace bipo::testing
