// Reads a vector from the file formats of other programs; the files are not trusted.
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
  std::optional<std::int64_t> layer;            // where the file says so
  std::string model;                            // empty where the file does not say so
  std::string tensor;                           // its name; empty in a pt
  std::map<std::string, std::string> metadata;  // of a safetensors file
};

// The vector of a file of torch.save (read_torch_vector() says which), of a safetensors file with
// one tensor [D] or [1, D], or of a GGUF control vector; `layer` chooses among the directions of
// the last.  `format` is one of those above, or "auto": as the file begins.  float64, float16 and
// bfloat16 become float32.  Throws UserError for anything else, for numbers that are not finite,
// more than 2^20 of them, a model's name that is no text, and for a file that says another layer
// than `layer`.
VectorFile read_vector_file(const std::filesystem::path& path, const std::string& format,
                            std::optional<std::int64_t> layer);

}  // namespace bipo
