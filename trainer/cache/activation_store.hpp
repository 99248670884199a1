// Stores cached activations in the memory of a node, or in a file that the next run opens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

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

// Returns a file of activations in `directory` that belongs to another user than this one and root,
// or an empty path.
std::filesystem::path foreign_store(const std::filesystem::path& directory);

// Removes the files of this process that are not committed yet, for a process that ends without
// destroying its stores.  For any thread.
void remove_unfinished_stores();

// One copy for all ranks of a node, which map the same memory.  The ranks write different rows and
// see each other's after a barrier.
class ActivationStore {
 public:
  // Stores in memory that ends with the processes.  Throws EnvironmentError without room for it.
  // Collective over: node
  ActivationStore(const StoreShape& shape, Communicator& node);

  // Stores in the file `directory`/`key`.activations.  Opens an existing, whole file of this key
  // and shape for reading (is_complete() on this rank; ranks may disagree while another job
  // writes); otherwise there is no storage until begin().  A file of another user counts as none
  // unless it `trusts_others`.
  ActivationStore(const StoreShape& shape, const std::filesystem::path& directory,
                  std::uint64_t key, bool trusts_others);

  ~ActivationStore();
  ActivationStore(const ActivationStore&) = delete;
  ActivationStore& operator=(const ActivationStore&) = delete;

  bool is_complete() const { return complete_; }

  // Reserves room for writing, in a temporary file where there is a directory.
  // Collective over: node
  void begin(Communicator& node);

  // Declares everything written.  A file gets its final name only now, when it is whole.
  // Collective over: node
  void commit(Communicator& node);

  const at::Tensor& activations() const { return activations_; }  // [T, D]
  // [2 P + 1]: log-probabilities {chosen, rejected} of every pair at v = 0, and the median RMS.
  double* numbers() const { return numbers_; }

 private:
  void map(int file, bool writable);
  void map_new_file(const std::filesystem::path& path, Communicator& node, bool keep_name);
  void set_views(std::byte* begin);

  StoreShape shape_;
  std::filesystem::path final_path_;  // empty: memory only
  std::filesystem::path temporary_path_;
  std::uint64_t key_ = 0;
  bool complete_ = false;
  bool removes_temporary_ = false;
  std::byte* mapped_ = nullptr;
  at::Tensor owned_;  // the memory where no other process needs it
  at::Tensor activations_;
  double* numbers_ = nullptr;
};

}  // namespace bipo
