// Reads GGUF files, which are not trusted: checks metadata and the places of all tensors before it
// uses a byte of tensor data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "trainer/model/files/mapped_file.hpp"
#include "trainer/model/gguf/block_quantization.hpp"
#include "trainer/model/gguf/gguf_metadata.hpp"

namespace bipo {

// A tensor of up to four dimensions, of which the last is contiguous: a matrix is [rows, columns],
// as in torch.
struct GgufTensor {
  BlockFormat format;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;  // within the file
};

struct GgufContents {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, GgufTensor, std::less<>> tensors;
  std::span<const std::byte> header;  // everything before the tensor data
};

// Parses the bytes of a GGUF file of version 2 or 3, which must outlive the result; `name` is the
// file in messages.  Throws UserError, naming the rule, for a file of another kind or version, a
// big-endian file, one part of a split file, anything that points outside the file, a number that
// would overflow, arrays of arrays, repeated keys or tensors, types that cannot be decoded, and
// tensors that are misaligned or overlap.  (Gaps between tensors are padding.)
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name);

// One memory-mapped file; pages are read on access.
class GgufFile {
 public:
  // Throws UserError as parse_gguf does.
  explicit GgufFile(const std::filesystem::path& path)
      : file_(path), contents_(parse_gguf(file_.bytes(), path.string())) {}

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const {
    return contents_.metadata;
  }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const {
    return contents_.tensors;
  }

  // Return nullptr if the file has no such key or tensor.
  const GgufValue* find_value(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // Releases the memory of a part of a tensor's data after it was read; see MappedFile.
  void let_go(std::span<const std::byte> part) const { file_.let_go(part); }

  // Returns a hash of the header and of samples of every tensor's data.
  std::uint64_t fingerprint() const;

 private:
  MappedFile file_;
  GgufContents contents_;
};

}  // namespace bipo
