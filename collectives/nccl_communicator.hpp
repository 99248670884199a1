// Collectives over NCCL, in CUDA memory; in a build without CUDA the functions refuse.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/watch/watch.hpp"

namespace bipo {

// Names two ranks of `world` that share a device, the same on every rank, or returns "": NCCL can
// hang when two ranks of a communicator share a device.  Collective over: world
std::string find_shared_device(Communicator& world);

// Makes a NCCL communicator over the ranks of `host_group`, which exchanges the NCCL id and whether
// every rank succeeded.  Needs one rank per CUDA device, and the current device selected.  Its
// operations are put on the current stream, and the host does not wait for their end; barrier()
// alone does.  NCCL runs non-blocking: every wait polls its asynchronous error, and an operation
// after a failure throws EnvironmentError.  `watch`, which may be null, looks at the operations
// under way and ends the job where one fails or does not end; `world_ranks` are the group's in the
// world.  Throws EnvironmentError on every rank if any rank fails.  Collective over: host_group
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host_group, Watch* watch,
                                                     std::vector<int> world_ranks);

}  // namespace bipo
