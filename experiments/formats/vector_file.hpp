// Reads vectors from untrusted files in the formats of other programs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/intervention/site.hpp"

namespace bipo {

// Which block the row r of a table [R, D] is for.
enum class RowRule {
  kRefused,   // a table is refused
  kSame,      // block r
  kPrevious,  // block r - 1; row 0 is the embedding's and is left out
};

// What a user says about the vectors of a file.
struct WantedVectors {
  std::optional<std::int64_t> layer = {};  // empty: all
  RowRule rows = RowRule::kRefused;
  std::int64_t shift = 0;  // added to every block that the file names
};

struct LayerVector {
  std::vector<float> value;  // [D]
  std::int64_t layer = 0;    // the block, from 0
  Site site = Site::kBlock;  // to which output it is added: the block's, or its MLP's
  std::string tensor;        // its name in the file, or "row 3"; empty where it has none
  double coefficient = 1;    // that the file has beside it; `value` is already times this
};

struct VectorFile {
  std::string format;                           // "pt", "safetensors", "gguf", "npy"
  std::vector<LayerVector> vectors;             // at least one, in the order of the layers
  std::string model;                            // empty where the file lacks it
  std::map<std::string, std::string> metadata;  // of a safetensors file
  std::vector<std::string> notes;               // sentences that the user should read
};

// Reads the vectors that `choice` means in a file of torch.save (as read_torch_tensors() does), of
// numpy.save, a safetensors file, or a GGUF control vector.  `format`: "pt", "npy", "safetensors",
// "gguf", or "auto", which looks at the file's first bytes.  The tensors of a safetensors file are
// one [D] or [R, D], or several [D] that are named after blocks, directly or by the list of names
// in psyctl's metadata.  Other floating-point numbers become float32.  Throws UserError for
// anything else, for numbers that are not finite, more than 2^20 numbers, a model's name that is
// not text, two vectors of one layer, a table without a rule, and a vector whose layer nobody
// names.
VectorFile read_vector_file(const std::filesystem::path& path, const std::string& format,
                            const WantedVectors& choice);

}  // namespace bipo
