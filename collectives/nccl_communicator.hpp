// Collectives over NCCL, in CUDA memory; a build without CUDA has the same function, which refuses.
#pragma once

#include <memory>
#include <string>

#include "collectives/communicator.hpp"

namespace bipo {

// NCCL can hang when two ranks of a communicator share a device: says which two ranks of `world` do
// (the same on every rank), or "". Collective over: world
std::string find_shared_device(Communicator& world);

// A NCCL communicator over the ranks of `host_group`, which carries the NCCL id and the verdict on
// the initialisation.  One rank per CUDA device; the current device must have been selected.  NCCL
// runs non-blocking: every wait polls its asynchronous error and gives up after a deadline. Throws
// EnvironmentError on every rank when any rank fails. Collective over: host_group
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host_group);

}  // namespace bipo
