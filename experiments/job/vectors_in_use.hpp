// The vectors that a command uses, read and checked against the model.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

struct VectorInUse {
  VectorChoice choice;
  StoredVector stored;
};

// Throws UserError, naming the file, for one that is no run file, for a vector of another hidden
// size than the model's and for a layer that it does not have.
std::vector<VectorInUse> read_vectors(const std::vector<VectorChoice>& choices,
                                      const ModelConfig& config);

SteeredPositions steered_positions(Positions positions);

// In the same order, without their weights.
std::vector<PlacedVector> placed(const std::vector<VectorInUse>& vectors);

// One for each vector that was trained on another model than this one: its use here is a transfer.
std::vector<std::string> transfer_warnings(const std::vector<VectorInUse>& vectors,
                                           const ModelFiles& model);

// For a file's config: an array of file, weight, layer, epoch, norm and the model of the training.
nlohmann::ordered_json vectors_json(const std::vector<VectorInUse>& vectors);

}  // namespace bipo
