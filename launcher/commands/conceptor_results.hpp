// The conceptors that `extract` makes, of the activations of pairs or of other conceptors.
#pragma once

#include "collectives/session.hpp"
#include "experiments/runs/conceptor_file.hpp"
#include "experiments/settings/settings.hpp"
#include "launcher/commands/extract_preparation.hpp"
#include "trainer/extraction/extraction_pass.hpp"

namespace bipo {

// Returns the conceptor of what a pass with moment_statistics() found at a layer.  Local.
ConceptorRecord extracted_conceptor(const ExtractPreparation& preparation,
                                    const ExtractedDirection& moments, const Session& session);

// Returns the bytes that a rank keeps of the moments of `layers` layers, and works with when it
// makes a conceptor of one of them.
std::uint64_t conceptor_bytes(std::int64_t hidden, std::int64_t layers);

// `extract` with a method that combines_conceptors(): the root reads the files of options.vectors,
// combines them in their order and writes options.out.  Returns the exit code.  Throws
// AgreedFailure (2) where a file is no conceptor's, where they differ in hidden size, layer or
// model, and where there is no memory for it.
// Collective over: world
int run_conceptor_combination(const ExtractOptions& options, Session& session);

}  // namespace bipo
