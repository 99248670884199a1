// A whole model in memory on this rank's device, for commands that use vectors and do not train.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "collectives/session.hpp"
#include "experiments/job/computation.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {

// Everything decided before the ranks work together.
struct WholeModel {
  ModelFiles files;
  Computation computation;
};

// Opens the model's files and chooses where it computes; all ranks form replicas of --tp ranks.
// Throws UserError, also if the weights do not fit into memory.  Local.
WholeModel open_whole_model(const std::filesystem::path& model,
                            const std::filesystem::path& adapter, const MachineOptions& options,
                            const Session& session);

// Returns the bytes free for a rank beside the model's weights.  Local.
std::uint64_t memory_beside_weights(const WholeModel& model, const Session& session);

// Throws UserError unless the weights and `bytes` more fit into memory, which are those of `what`.
// Local.
void require_beside_weights(const WholeModel& model, const std::string& what, std::uint64_t bytes,
                            const Session& session);

// Loads all weights of the decoder; `model` and `ranks` must outlive it.  Local.
std::unique_ptr<Decoder> load_whole_model(const WholeModel& model, const Ranks& ranks);

}  // namespace bipo
