// The record that a cell of a sweep failed, and why: DIR/failures/<cell>.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace bipo {

struct CellFailure {
  std::string reason;
  std::string utc;   // ISO 8601
  std::string host;  // that found it
};

// Replaces an older record.  Throws EnvironmentError.
void write_failure(const std::filesystem::path& directory, const std::string& cell,
                   const std::string& reason);

// Nothing where the cell has no record; a record that cannot be read is a failure of unknown
// reason.
std::optional<CellFailure> read_failure(const std::filesystem::path& directory,
                                        const std::string& cell);

// No record is fine.  Throws EnvironmentError.
void clear_failure(const std::filesystem::path& directory, const std::string& cell);

}  // namespace bipo
