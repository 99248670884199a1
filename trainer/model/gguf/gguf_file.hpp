// Reads GGUF files, which are not trusted: metadata and the places of the tensors, all of it
// checked before a byte of tensor data is used.
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

// A tensor of up to four dimensions, the last one's elements side by side: a matrix [rows, columns]
// as torch has it.
struct GgufTensor {
  BlockFormat format;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;  // within the file
};

struct GgufContents {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, GgufTensor, std::less<>> tensors;
  std::span<const std::byte> header;  // all that is not tensor data
};

// The contents of the bytes of a GGUF file of version 2 or 3, which must outlive what is returned;
// `name` stands for the file in messages.  Throws UserError, naming the rule, for a file of another
// kind or version, a big-endian one, one part of a split one, anything that leads out of the file,
// a number that would overflow, arrays of arrays, repeated keys or tensors, types that cannot be
// decoded, and tensors that are misaligned or overlap.  (Gaps between tensors are padding.)
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name);

// One memory-mapped file; pages are read when touched.
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

  // nullptr where the file has no such key or tensor.
  const GgufValue* find_value(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // Takes a part of a tensor's data, which was read, out of this process's memory.
  void let_go(std::span<const std::byte> part) const { file_.let_go(part); }

  // Of the header and of samples of every tensor's data.
  std::uint64_t fingerprint() const;

 private:
  MappedFile file_;
  GgufContents contents_;
};

}  // namespace bipo
