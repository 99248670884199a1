// The conceptor file: a matrix that says along which directions activations of one layer lie, and
// how it was made, in one HDF5 file of a kind of its own.  Commands that need a vector refuse it.
//
// It is written once, as a run file is replaced; one rank writes it, and nothing here communicates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/files/job_attributes.hpp"

namespace bipo {

// D: hidden size.

struct ConceptorAttributes : JobAttributes {
  std::int64_t layer = 0;  // the block, from 0, of whose output it was made
  // The aperture in residual units, and in those of the activations; none where the conceptor was
  // made of others.
  std::optional<double> aperture;
  std::optional<double> absolute_aperture;
};

struct ConceptorRecord {
  ConceptorAttributes attributes;
  std::vector<double> matrix;  // [D, D], row by row; symmetric to the bit, finite
};

// The newest schema_version that this program reads, and the one that it writes.
inline constexpr std::int64_t kConceptorFileSchema = 1;

// Writes `record` to `path` as replace_file() does, with its errors.  Throws BugError for a record
// that readers would reject.
void write_conceptor_file(const std::filesystem::path& path, const ConceptorRecord& record);

// Throws UserError, naming the file and the remedy, as hdf5::Reading does, and for a matrix that is
// not symmetric, or has numbers that are not finite or that no eigenvalues between 0 and 1 make.
ConceptorRecord read_conceptor_file(const std::filesystem::path& path);

// Returns whether the file says that it is a conceptor's.  False for one that is missing, no HDF5
// file or damaged: whoever reads it then says what is wrong.
bool is_conceptor_file(const std::filesystem::path& path);

// Returns the mean of the eigenvalues (see conceptor_quota()).
double quota_of(const ConceptorRecord& record);

}  // namespace bipo
