// A vector as a run file keeps it, for the commands that use vectors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace bipo {

struct StoredVector {
  std::vector<float> value;  // [D]
  std::int64_t layer = 0;    // the block, from 0, whose output it is added to
  std::int64_t step = 0;     // updates done
  std::int32_t epoch = 0;    // from 0
  std::string model;         // what it was trained on, as the run file names it
  std::string config;        // JSON object: the run's settings
};

// The vector of `epoch`, or the last one.  Throws UserError as read_run_file() does, for a run
// without such a vector, and for one with numbers that are not finite.
StoredVector read_stored_vector(const std::filesystem::path& run_file,
                                std::optional<std::int64_t> epoch = std::nullopt);

}  // namespace bipo
