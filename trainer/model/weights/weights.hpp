// The source of a model's weights, read slice by slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/files/file_hash.hpp"
#include "trainer/model/files/mapped_file.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Returns this slice of the tensor that plays `role` in `block`, in CPU memory and in its stored
  // type.
  virtual at::Tensor read(Role role, std::int64_t block, const Slice& slice) const = 0;

  // Returns file and name of the tensor that holds this weight, for messages.
  virtual std::string place(Role role, std::int64_t block) const = 0;

  // Returns what is odd about the files but harmless, one sentence each.
  virtual std::vector<std::string> warnings() const { return {}; }

  // Returns a hash of names, types, shapes and samples of the data.
  virtual std::uint64_t fingerprint() const = 0;

  // Returns the files that hold the weights; none where they are made up.
  virtual std::vector<const MappedFile*> files() const { return {}; }
};

// Returns a hash of every byte of the source's files, which identifies the weights; of made-up
// ones the fingerprint.  Reads all files that `memory` does not know.  Throws EnvironmentError; see
// file_hash.
std::uint64_t hash_of_weights(const WeightSource& source, const HashMemory& memory = {});

// Opens the safetensors of a model directory: model.safetensors, or else the shards that
// model.safetensors.index.json names (plain file names only, so that no index leads out of the
// directory).  Throws UserError unless every tensor that the configuration implies exists, in a
// floating-point type and with the implied shape, and every tensor of the index is in the file that
// the index names.  Warns about tensors that the model does not use, except those that repeat what
// the configuration says and a head that is the embedding, and about further files of another
// model.
//
// Names may begin with something else than "model." (see checkpoint_names.hpp).  A configuration
// that ties the head to the embedding is followed by what the files hold, as transformers 5.23
// does: with a head alone, that is the embedding too; a head that differs from the embedding is a
// head of its own, and `config.tied_head` becomes false (transformers 4.57.6 ties it all the
// same).  Only such a head is compared, up to the first
// difference.
std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               ModelConfig& config);

// Makes normal weights of standard deviation 0.02 (the usual initial scale) in bfloat16; norms
// are 1. An element depends on (seed, role, block, row, column) only, so that every sharding reads
// the same model.  Rows are windows into one random buffer: reading costs a copy, whatever the
// model's size.
std::unique_ptr<WeightSource> make_synthetic_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace bipo
