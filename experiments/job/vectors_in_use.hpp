// The vectors that a command uses, read and checked against the model.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "experiments/runs/run_file.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/passes/continuation_scores.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// The vector of one layer, of which a run of several layers has one for each, or a conceptor in the
// place of a vector.
struct VectorInUse {
  VectorChoice choice;             // its weight is a conceptor's beta
  StoredVector stored;             // of a conceptor without a value
  std::size_t choice_index = 0;    // among the choices that the user made
  std::vector<float> matrix = {};  // [D, D], of a conceptor; empty: a vector
  double quota = 0;                // of a conceptor

  bool is_conceptor() const { return !matrix.empty(); }
  // What a multiplier is multiplied by to be its coefficient: the beta of a conceptor is part of
  // what it does at multiplier 1 (see Intervention).
  double coefficient_at_one() const { return is_conceptor() ? 1 : choice.weight; }
};

// Reads the vectors of a run's layers, one for each, for the option `option`, with the errors of
// read_vectors().
std::vector<StoredVector> read_layer_vectors(const VectorChoice& choice, const ModelConfig& config,
                                             const char* option);

// Reads one vector for the option `option`, with the errors of read_vectors(), and for a run of
// several layers.
StoredVector read_vector(const VectorChoice& choice, const ModelConfig& config, const char* option);

// Returns the vectors and conceptors of all choices, in their order, the vectors of one choice by
// their layers.  Throws UserError, naming the file, if it is not a run file and not a conceptor
// file, if the hidden size is not the model's, if the model does not have its layer, and for a
// conceptor with an epoch.
std::vector<VectorInUse> read_vectors(const std::vector<VectorChoice>& choices,
                                      const ModelConfig& config);

// At which tokens a vector was added in training.
struct TrainedPositions {
  SteeredPositions positions;
  bool steers_bos = true;
  bool operator==(const TrainedPositions&) const = default;
};

// Returns the number by which the vector is multiplied to do the same where it is added to its
// block's output, by its file; none where nothing that is added there does the same.
std::optional<double> block_output_factor(const StoredVector& vector);

// Returns what the vector's file says of them; everywhere where it says nothing.  Throws UserError
// for positions that no version knows.
TrainedPositions trained_positions(const StoredVector& vector);

// Returns them for a person, "" for all tokens.
std::string limited_positions(const TrainedPositions& trained);

// Returns the first vector that was trained at other positions than the first of them, null if
// there is none.
const VectorInUse* first_trained_elsewhere(const std::vector<VectorInUse>& vectors);

// Sets the token that --steer-bos off leaves out, `bos` (if any); warns of a model that has none.
void leave_out_bos(bool steer_bos, std::optional<TokenId> bos, SteeredPositions& positions,
                   std::vector<std::string>& warnings);

// Fills options.positions and options.steer_bos where they are not given, with those of the
// vectors' training, and the token that is left out, `bos` (if any).  Returns warnings where what
// is given differs from the training.  Throws UserError where vectors were trained at different
// positions and none are given.
std::vector<std::string> resolve_positions(const std::vector<VectorInUse>& vectors,
                                           std::optional<TokenId> bos, SteeringOptions& options);

// Throws UserError where a vector has a weight that the intervention has no meaning for, where it
// needs a direction and all vectors of a --vector are zero, and where it is given for a conceptor,
// which acts in its own way.
void check_intervention(const std::vector<VectorInUse>& vectors, const Intervention& intervention);

// Returns the vectors in the same order, without their weights; conceptors with theirs, and with
// their own intervention.
std::vector<PlacedVector> placed(const std::vector<VectorInUse>& vectors,
                                 const Intervention& intervention = {});

// Returns the bytes that the conceptors take of the memory of a rank's device beside what is there
// when they are read, with `controls` further ones for each (see plan_steering()); at most 2^62. On
// a CPU each is there twice: as it is placed, and as a tensor.
std::uint64_t conceptor_device_bytes(const std::vector<VectorInUse>& vectors, std::int64_t controls,
                                     c10::Device device);

// Reads --gate; none if it is not given.  Throws UserError for a file that does not fit the model,
// and for a vector of zeros.
std::optional<Gate> read_gate(const GateChoice& choice, const ModelConfig& config);

// Returns the vectors, and behind them that of the gate, if it is of another file.
std::vector<VectorInUse> with_gate(std::vector<VectorInUse> vectors, const GateChoice& gate);

// Adds where and how the vectors act where that is not adding at all tokens, for a person.
void add_steering_notes(const SteeringOptions& options, const std::optional<Gate>& gate,
                        std::vector<std::string>& notes);

// Returns whether the vector says that it was trained on other weights or another configuration.
bool is_transfer(const StoredVector& vector, std::uint64_t model_fingerprint,
                 std::uint64_t weights_hash);

// Returns a warning for each vector that was trained on another model: its use here is a transfer.
// `weights_hash` of the model: see hash_of_weights.
std::vector<std::string> transfer_warnings(const std::vector<VectorInUse>& vectors,
                                           const ModelFiles& model, std::uint64_t weights_hash);

// Returns the same, and one for each vector of a run that is not complete.
std::vector<std::string> vector_warnings(const std::vector<VectorInUse>& vectors,
                                         const ModelFiles& model, std::uint64_t weights_hash);

// Returns what `vector` is, for a person: its file, layer and site, epoch, norm and weight.
std::string vector_note(const VectorChoice& choice, const StoredVector& vector);

// Returns vector_note() of each; of a conceptor its file, layer, quota and beta.
std::vector<std::string> vector_notes(const std::vector<VectorInUse>& vectors);

// Returns for a file's config which vector of `choice` was meant and found: file, selected
// ("best"), weight, layer, epoch (from 0, as in the file), step, norm, the model of the training,
// and the site, unless it is the block's output.
nlohmann::ordered_json vector_json(const VectorChoice& choice, const StoredVector& vector);

// Returns an array of them; a conceptor has "kind": "conceptor", and a quota in place of a norm.
nlohmann::ordered_json vectors_json(const std::vector<VectorInUse>& vectors);

}  // namespace bipo
