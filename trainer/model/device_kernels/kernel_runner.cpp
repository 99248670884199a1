#include "trainer/model/device_kernels/kernel_runner.hpp"

#include <fmt/format.h>

#include <atomic>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/cuda_kernels.hpp"

namespace bipo {
namespace {

struct Runners {
  std::array<std::atomic<KernelRunner*>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> of_type{};
  std::atomic<bool> composed{false};
  std::array<std::atomic<std::int64_t>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> largest_flash_head{};
  std::atomic<AttentionChoice> attention{AttentionChoice::kAuto};
};

// A function's, because runners may be registered before main().
Runners& runners() {
  static Runners all;
  return all;
}

std::atomic<KernelRunner*>& runner_of(c10::DeviceType type) {
  return runners().of_type.at(static_cast<std::size_t>(type));
}

}  // namespace

void register_kernels(c10::DeviceType type, KernelRunner* runner) {
  runner_of(type) = runner;
}

std::string choose_kernels(KernelChoice choice, c10::Device device) {
  runners().composed = choice == KernelChoice::kComposed;
  if (device.is_cpu()) {
    if (choice == KernelChoice::kCompiled) {
      throw UserError(
          "--kernels compiled: these kernels are for GPUs, and the model is on the CPU");
    }
    return "";
  }
  if (choice == KernelChoice::kComposed) {
    return "libtorch's";
  }
  try {
    if (device.is_cuda()) {
      return load_cuda_kernels(device);
    }
  } catch (const EnvironmentError& error) {
    if (choice == KernelChoice::kCompiled) {
      throw UserError(fmt::format("--kernels compiled: {}; --kernels composed needs nothing of it",
                                  error.what()));
    }
    runners().composed = true;
    return fmt::format("libtorch's: {}", error.what());
  }
  return kernels_for(device) != nullptr ? "compiled" : "libtorch's";
}

KernelRunner* kernels_for(c10::Device device) {
  return runners().composed ? nullptr : runner_of(device.type()).load();
}

void choose_attention(AttentionChoice choice, c10::Device device, at::ScalarType product_type) {
  if (choice == AttentionChoice::kFlash) {
    const char* const lacks =
        device.is_cpu()                   ? "is for GPUs, and the model is on the CPU"
        : product_type != at::kBFloat16   ? "computes in bfloat16: give --dtype bf16"
        : kernels_for(device) == nullptr  ? "needs the kernels of --kernels compiled"
        : largest_flash_head(device) == 0 ? "needs a GPU of compute capability 8.0 or later"
                                          : nullptr;
    if (lacks != nullptr) {
      throw UserError(fmt::format("--attention flash: this {}; --attention composed runs", lacks));
    }
  }
  runners().attention = choice;
}

AttentionChoice chosen_attention() {
  return runners().attention;
}

void register_flash_attention(c10::DeviceType type, std::int64_t largest_head) {
  runners().largest_flash_head.at(static_cast<std::size_t>(type)) = largest_head;
}

std::int64_t largest_flash_head(c10::Device device) {
  return kernels_for(device) == nullptr
             ? 0
             : runners().largest_flash_head.at(static_cast<std::size_t>(device.type())).load();
}

}  // namespace bipo
