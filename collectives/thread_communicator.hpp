// Ranks as threads of one process, for tests.
#pragma once

#include <functional>

#include "collectives/communicator.hpp"

namespace bipo {

// Runs `body` on `size` threads, each with a Communicator of its own rank; returns when all have
// ended. The first exception thrown is rethrown; a rank that throws releases the others, which then
// get an EnvironmentError from the collective they wait in.
//
// Reductions add in rank order.
void run_as_threads(int size, const std::function<void(Communicator&)>& body);

}  // namespace bipo
