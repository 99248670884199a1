// The conceptors that `extract` makes, of the activations of pairs or of other conceptors.
#pragma once

#include <cstdint>
#include <vector>

#include "collectives/session.hpp"
#include "experiments/runs/conceptor_file.hpp"
#include "experiments/settings/settings.hpp"
#include "launcher/commands/extract_preparation.hpp"
#include "trainer/extraction/extraction_pass.hpp"

namespace bipo {

// Puts the upper triangles of conceptors in the place of those of the second moments, which a pass
// with moment_statistics() found at each layer.  Local.
void make_conceptors(const ExtractPreparation& preparation,
                     std::vector<ExtractedDirection>& moments, const PassProgress& progress);

// Returns what the file of one of them holds.  Local.
ConceptorRecord conceptor_record(const ExtractPreparation& preparation,
                                 const ExtractedDirection& found, const Session& session);

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
