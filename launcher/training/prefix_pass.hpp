// The pass over the data before the first step, as the commands run it.
#pragma once

#include <vector>

#include "collectives/session.hpp"
#include "launcher/terminal/progress.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// Fills the caches, all of the same layers, and shows how far it is on `display` (null on ranks
// that stay silent).  Afterwards memory that is freed stays with the process, for the steps to
// come. Collective over: world
void run_prefix_pass(Decoder& decoder, const std::vector<ActivationCache*>& caches,
                     const Ranks& ranks, ProgressDisplay* display);

}  // namespace bipo
