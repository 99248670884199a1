// Looks, before anything is loaded, whether a device has room for the pass of an extraction, and
// chooses what it packs together.
#pragma once

#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "experiments/training/run_preparation.hpp"
#include "trainer/extraction/extraction_pass.hpp"

namespace bipo {

constexpr const char* kExtractionPass = "the extraction's pass";

// Chooses settings.device_pack for these pairs as choose_packs() does.  All else in `settings` has
// been chosen.  Does nothing on a CPU.  Local.
void choose_extraction_packs(JobPreparation& job, const std::vector<TokenPair>& pairs,
                             ExtractionSettings& settings);

}  // namespace bipo
