// The run file: log, checkpoint and result of one training run in one HDF5 file.
//
// Every save writes a new file beside the old one, fsyncs it and renames it over the old one, so
// that a reader (h5py, h5dump, pandas) finds a closed, complete file at any moment and after any
// kill.  One rank writes it; nothing here communicates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/job_attributes.hpp"
#include "experiments/runs/vector_selection.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// D: hidden size, S: layers that the run steers, mostly one.

// Returns "running", "complete" or "interrupted".
std::string to_string(RunStatus status);

struct RunAttributes : JobAttributes {
  RunStatus status = RunStatus::kRunning;
  std::int64_t layer = 0;                        // the lowest that is steered
  std::vector<std::int64_t> higher_layers = {};  // those steered jointly with it, ascending
  Site site = Site::kBlock;                      // of all of them
  // Says of a complete run whether its vector steers: "steers: ", "untested: " or kWeakVerdict with
  // a sentence; "" for other runs, and for those of earlier versions.
  std::string verdict;
};

// Returns the layers that the run steers, with their site; throws BugError unless they ascend.
SteeredLayers steered_layers(const RunAttributes& run);

inline constexpr const char* kWeakVerdict = "weak: ";

// Returns whether the run is complete and shows no effect.
inline bool is_weak(const RunAttributes& run) {
  return run.verdict.starts_with(kWeakVerdict);
}

// What other programs added to a run file, as the image of an HDF5 file; null: nothing.
using RunAdditions = std::shared_ptr<const std::vector<std::byte>>;

struct RunRecord : TrainingRecord {
  RunAttributes attributes;
  RunAdditions additions;
};

// The newest schema_version that this program reads.  It writes the first that says what the run
// is: 1 where block outputs are steered, 2 where it is another site, which versions that know one
// site would take for block outputs.
inline constexpr std::int64_t kRunFileSchema = 2;

// Writes `record`, with its additions, to `path` as replace_file() does, with its errors and its
// result.
bool write_run_file(const std::filesystem::path& path, const RunRecord& record,
                    const ReplaceGuard& may_replace = {}, FileVersion* written = nullptr);

extern const hdf5::FileKind kRunFileKind;

// Reads an open run file; throws UserError, EnvironmentError and hdf5::ContentChanged.
RunRecord read_run(const hdf5::Handle& file);

// Throws UserError, naming the file and the remedy, as hdf5::Reading does.
RunRecord read_run_file(const std::filesystem::path& path);

// Reads the run with the additions, which its next version is to keep; throws as read_run_file()
// does, and for additions that cannot be kept.
RunRecord read_run_to_continue(const std::filesystem::path& path);

// Reads the status alone; throws as read_run_file() does.
RunStatus read_run_status(const std::filesystem::path& path);

// One vector of a run file, for the commands that use vectors.
struct StoredVector {
  std::vector<float> value;  // [D]
  std::int64_t layer = 0;    // the block, from 0, that it steers
  std::int64_t step = 0;     // updates done; 0: no training made it
  std::int32_t epoch = 0;    // from 0
  std::string model;         // the model it was trained on, as the run file names it
  std::string config;        // JSON object: the run's settings
  RunStatus status = RunStatus::kComplete;
  VectorSelection selection = {};  // by which it was found
  std::int32_t epochs = 0;         // of which the file holds vectors
  Site site = Site::kBlock;

  SteeredPlace place() const { return {layer, site}; }
};

// Reads the vector that `selection` means, as one for each of the run's layers, the lowest first.
// Throws UserError as read_run_file() does, for a run without such a vector, naming the epochs that
// there are, for the best of a run without an evaluation, and for a vector with numbers that are
// not finite.
std::vector<StoredVector> read_stored_vectors(const std::filesystem::path& run_file,
                                              const VectorSelection& selection = {});

// The same for a use that takes one layer's vector; throws UserError for a run of several layers,
// too.
StoredVector read_stored_vector(const std::filesystem::path& run_file,
                                const VectorSelection& selection = {});

// Returns "epoch 3 of 20", "epoch 3 of 20, the best", counted from 1; "" where no training made the
// vector.
std::string epoch_text(const StoredVector& vector);

// Returns a warning where the vector is of a run that is not complete; else nothing.
std::optional<std::string> unfinished_warning(const std::filesystem::path& run_file,
                                              const StoredVector& vector);

// A row of S D numbers of a checkpoint, as files name it.
struct CheckpointPart {
  const char* name;
  std::vector<float> Checkpoint::*member;
  const char* units;
};

inline constexpr CheckpointPart kCheckpointParts[] = {
    {"vector", &Checkpoint::vector, "hidden units"},
    {"exp_avg", &Checkpoint::exp_avg, "nats per hidden unit"},
    {"exp_avg_sq", &Checkpoint::exp_avg_sq, "nats^2 per hidden unit^2"},
};

}  // namespace bipo
