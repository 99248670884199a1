#include "tests/support/host_kernels.hpp"

#include <fmt/format.h>

#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"

namespace bipo::testing {
namespace {

// Runs kernel<T>(block) for every row.
template <class Kernel>
void run_rows(const KernelCall& call, const Kernel& kernel) {
  for (std::int64_t row = 0; row < call.rows; ++row) {
    kernel(device_kernels::Block(row, call.threads));
  }
}

}  // namespace

void run_on_host(const KernelCall& call) {
  const std::string_view name = call.kernel;
#define BIPO_RUN(kernel, Arguments)                                                               \
  if (name == #kernel) {                                                                          \
    using device_kernels::Block;                                                                  \
    const auto& arguments = *static_cast<const device_kernels::Arguments*>(call.arguments);       \
    switch (call.type) {                                                                          \
      case at::kFloat:                                                                            \
        return run_rows(                                                                          \
            call, [&](const Block& block) { device_kernels::kernel<float>(block, arguments); });  \
      case at::kBFloat16:                                                                         \
        return run_rows(call, [&](const Block& block) {                                           \
          device_kernels::kernel<device_kernels::BFloat16>(block, arguments);                     \
        });                                                                                       \
      case at::kDouble:                                                                           \
        return run_rows(                                                                          \
            call, [&](const Block& block) { device_kernels::kernel<double>(block, arguments); }); \
      default:                                                                                    \
        break;                                                                                    \
    }                                                                                             \
  }
  BIPO_EACH_KERNEL(BIPO_RUN)
#undef BIPO_RUN
  throw BugError(fmt::format("no kernel {} for {}", name, c10::toString(call.type)));
}

}  // namespace bipo::testing
