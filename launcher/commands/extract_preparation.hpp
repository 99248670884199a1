// Decides and checks everything about an extraction before the ranks begin to work together.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "experiments/job/vectors_in_use.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/settings/settings.hpp"
#include "experiments/training/run_preparation.hpp"
#include "trainer/extraction/extraction_pass.hpp"

namespace bipo {

struct ExtractPreparation {
  ExtractOptions options;
  JobPreparation job;
  ExtractionSettings pass;
  std::vector<TokenPair> pairs;       // of the pass: those of --train, then those of --background
  std::vector<VectorInUse> ensemble;  // empty for other methods
  std::vector<double> ensemble_mean;  // [D]
  std::optional<double> norm;         // target norm; none: as found
  std::string created_utc;
  std::uint64_t agreement = 0;  // equal on ranks that are about to extract the same
};

// Reads and checks everything, including the places of results, without communicating and before
// anything large is loaded.  Throws UserError.
ExtractPreparation prepare_extraction(const ExtractOptions& given, const std::string& created_utc,
                                      const Session& session);

// Makes the directory of the results where there are several, and checks their places.  Throws
// UserError.
void prepare_places(const ExtractOptions& options, const std::vector<std::int64_t>& layers);

// Returns the file of the direction of `layer`.
std::filesystem::path direction_file(const ExtractOptions& options, std::int64_t layer);

// Norms of one layer's direction, and what its method has measured.
struct DirectionNorms {
  double found = 0;
  double written = 0;
  double residual = 0;                // median norm of the residual stream there
  std::optional<double> figure = {};  // see LayerStatistics
};

// What the figure is, as files name it: null where the method has none.
const char* figure_key(ExtractMethod method);

// Returns a JSON object: what `config` in the run file of `layer` holds.
std::string extract_config(const ExtractPreparation& preparation, std::int64_t layer,
                           const DirectionNorms& norms);

std::vector<SettingGroup> extract_settings_table(const ExtractPreparation& preparation);

}  // namespace bipo
