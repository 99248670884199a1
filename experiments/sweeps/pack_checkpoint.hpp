// The one step from which all members of a pack continue, in a file of its own.
//
// A pack's members are saved one after the other, and a kill may fall in between.  This file is
// written when all run files of a step are in place; what the run files hold beyond its step is
// computed again.  One rank writes it; nothing here communicates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/files/atomic_file.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// M members, D hidden size.
struct PackCheckpoint {
  std::vector<std::string> names;   // [M], the members' cells, in the pack's order
  std::vector<Checkpoint> members;  // [M], all of one step
};

// The newest schema_version that is read, and the one that is written.
inline constexpr std::int64_t kPackCheckpointSchema = 1;

// Writes `checkpoint` as replace_file() does, with its errors and its result.  The HDF5 file holds
// /step, /seed [M], /vector, /exp_avg and /exp_avg_sq [M, D], /factor [M, 3] where one is
// learned, and the names as a JSON array in the attribute `members`.
bool write_pack_checkpoint(const std::filesystem::path& path, const PackCheckpoint& checkpoint,
                           const ReplaceGuard& may_replace = {});

// Throws UserError, naming the file and the remedy, for a file that is missing, damaged, of another
// kind or of a newer schema.
PackCheckpoint read_pack_checkpoint(const std::filesystem::path& path);

// Removes from `record` the rows, evaluations and vectors after the step of `checkpoint`, and makes
// that its state.  The record must have reached this step.
void rewind_to(const Checkpoint& checkpoint, TrainingRecord& record);

}  // namespace bipo
