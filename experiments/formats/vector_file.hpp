// Reads a vector from untrusted files in the formats of other programs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace bipo {

struct VectorFile {
  std::vector<float> value;                     // [D]
  std::string format;                           // "pt", "safetensors", "gguf"
  std::optional<std::int64_t> layer;            // where the file has it
  std::string model;                            // empty where the file lacks it
  std::string tensor;                           // its name; empty in a pt
  std::map<std::string, std::string> metadata;  // of a safetensors file
};

// Reads a file of torch.save (as read_torch_vector() does), a safetensors file with one tensor [D]
// or [1, D], or a GGUF control vector, from whose directions `layer` chooses.  `format`: "pt",
// "safetensors", "gguf", or "auto", which looks at the file's first bytes.  float64, float16 and
// bfloat16 become float32.  Throws UserError for anything else, for numbers that are not finite,
// more than 2^20 numbers, a model's name that is not text, and a file for another layer than
// `layer`.
VectorFile read_vector_file(const std::filesystem::path& path, const std::string& format,
                            std::optional<std::int64_t> layer);

}  // namespace bipo
