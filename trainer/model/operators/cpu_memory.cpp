#include "trainer/model/operators/cpu_memory.hpp"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and an AVX-512 register

// The address that malloc gave stands in the word before the aligned one.
void** base_of(void* aligned) {
  return static_cast<void**>(aligned) - 1;
}

void release(void* aligned) {
  if (aligned != nullptr) {
    std::free(*base_of(aligned));
  }
}

class CompactAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    }
    const std::size_t room = sizeof(void*) + kAlignment;
    void* const base = bytes > SIZE_MAX - room ? nullptr : std::malloc(bytes + room);
    if (base == nullptr) {
      throw EnvironmentError(
          fmt::format("out of memory: the system refused {} bytes for one tensor; use a smaller "
                      "--micro-batch or more ranks",
                      bytes));
    }
    const auto first = reinterpret_cast<std::uintptr_t>(base) + sizeof(void*);
    void* const aligned = reinterpret_cast<void*>((first + kAlignment - 1) & ~(kAlignment - 1));
    *base_of(aligned) = base;
    return {aligned, aligned, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

}  // namespace

void use_compact_cpu_memory() {
  static CompactAllocator
      allocator;  // tensors of other static objects may outlive main: it has no destructor to run
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

}  // namespace bipo
