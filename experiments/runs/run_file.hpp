// The run file: log, checkpoint and result of one training run in one HDF5 file.
//
// Every save writes a whole new file beside the old one, fsyncs it and renames it over the old, so
// that a reader (h5py, h5dump, pandas) finds a closed, complete file at any moment and after any
// kill. Written by one rank; nothing here communicates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "experiments/files/atomic_file.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// "running", "complete", "interrupted".
std::string to_string(RunStatus status);

struct RunAttributes {
  RunStatus status = RunStatus::kRunning;
  std::string config;  // JSON object: every effective setting
  std::string program_version;
  std::string git_commit;
  std::string created_utc;  // ISO 8601
  std::string model;
  std::int64_t layer = 0;
  std::int64_t hidden_size = 0;  // D
  std::int64_t world_size = 0;
  std::int64_t dp = 0;
  std::int64_t tp = 0;
  std::string backend;
  std::string dtype;
  std::string hosts;  // comma separated
};

struct RunRecord : TrainingRecord {
  RunAttributes attributes;
};

// schema_version this program writes, and the newest it reads.
inline constexpr std::int64_t kRunFileSchema = 1;

// Writes `record` to `path` atomically: temp file in the same directory (named after host and pid),
// fsync, rename, fsync of the directory.  Throws EnvironmentError when any of it fails; the old
// file is then left as it was and the temp file is removed.  Returns whether the file was replaced:
// false only where `may_replace` said no.
bool write_run_file(const std::filesystem::path& path, const RunRecord& record,
                    const ReplaceGuard& may_replace = {});

// Throws UserError for a file that is missing, is no run file, is damaged or has a newer schema
// (naming it and what to do).
RunRecord read_run_file(const std::filesystem::path& path);

// The same of the status alone.
RunStatus read_run_status(const std::filesystem::path& path);

// Throws UserError unless `path` can be created or replaced: its directory exists and takes a new
// file (tried with a temp file, which is removed again), and `path` itself is no directory.
void check_writable(const std::filesystem::path& path);

// Removes temp files that killed writers left beside `path`: those of this host whose process is
// gone.
void remove_stale_temp_files(const std::filesystem::path& path);

}  // namespace bipo
