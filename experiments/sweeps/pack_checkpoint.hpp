// The one step from which all members of a pack continue, in a file of its own.
//
// A pack's members are saved one after the other, and a kill may fall in between.  This file is
// written when all run files of a step are in place: whatever the run files hold beyond its step is
// computed again. Written by one rank; nothing here communicates.
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
  std::vector<std::string> names;   // [M] of the members' cells, in the pack's order
  std::vector<Checkpoint> members;  // [M] of one step
};

// schema_version that is written, and the newest that is read.
inline constexpr std::int64_t kPackCheckpointSchema = 1;

// Writes `checkpoint` to `path` atomically, as HDF5: /step, /seed [M], /vector, /exp_avg and
// /exp_avg_sq [M, D], with the names as a JSON array in the attribute `members`.  Throws
// EnvironmentError when that fails; the old file is then left as it was.  Returns whether the file
// was replaced: false only where `may_replace` said no.
bool write_pack_checkpoint(const std::filesystem::path& path, const PackCheckpoint& checkpoint,
                           const ReplaceGuard& may_replace = {});

// Throws UserError, naming the file and what to do, for one that is missing, damaged, foreign or
// newer.
PackCheckpoint read_pack_checkpoint(const std::filesystem::path& path);

// Takes from `record` what was added after the step of `checkpoint`, and continues from there:
// rows, evaluations and vectors go.  The record must have come at least so far.
void rewind_to(const Checkpoint& checkpoint, TrainingRecord& record);

}  // namespace bipo
