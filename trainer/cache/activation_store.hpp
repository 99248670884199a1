// Holds cached activations in the memory of a node.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "collectives/communicator.hpp"

namespace bipo {

// T packed tokens of a data set, D hidden, P pairs.
struct StoreShape {
  std::int64_t tokens = 0;
  std::int64_t hidden = 0;
  std::int64_t pairs = 0;
  at::ScalarType type = at::kFloat;  // of the activations: float32, bfloat16 or float64

  std::uint64_t bytes() const;
};

// One copy for all ranks of a node, which map the same memory.  The ranks write different rows and
// see each other's after a barrier.
class ActivationStore {
 public:
  // Takes memory that ends with the processes; for several ranks an unnamed file in /dev/shm,
  // $TMPDIR, /tmp or `spare_directory` (none if empty), whichever has room first.  Throws
  // EnvironmentError without room for it.  Collective over: node
  ActivationStore(const StoreShape& shape, const std::filesystem::path& spare_directory,
                  Communicator& node);

  ~ActivationStore();
  ActivationStore(const ActivationStore&) = delete;
  ActivationStore& operator=(const ActivationStore&) = delete;

  const StoreShape& shape() const { return shape_; }

  const at::Tensor& activations() const { return activations_; }  // [T, D]
  // [2 P + 1]: log-probabilities {chosen, rejected} of every pair at v = 0, and the median RMS.
  double* numbers() const { return numbers_; }

  // Everything above, as it lies in memory.
  std::span<std::byte> bytes() const { return {memory_, shape_.bytes()}; }

 private:
  void map_scratch_file(const std::filesystem::path& spare_directory, Communicator& node);
  void map(int file, const std::filesystem::path& path);

  StoreShape shape_;
  std::byte* memory_ = nullptr;
  at::Tensor owned_;  // the memory where no other process needs it
  at::Tensor activations_;
  double* numbers_ = nullptr;
};

}  // namespace bipo
