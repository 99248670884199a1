// Reads GGUF files, which are not trusted: checks metadata and the places of all tensors before it
// uses a byte of tensor data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
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
  std::size_t part = 0;             // of a model in several files
};

struct GgufContents {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, GgufTensor, std::less<>> tensors;
  std::span<const std::byte> header;  // everything before the tensor data
};

// Parses the bytes of a GGUF file of version 2 or 3, which must outlive the result; `name` is the
// file in messages.  Throws UserError, naming the rule, for a file of another kind or version, a
// big-endian file, anything that points outside the file, a number that
// would overflow, arrays of arrays, repeated keys or tensors, types that cannot be decoded, and
// tensors that are misaligned or overlap.  (Gaps between tensors are padding.)
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name);

// A memory-mapped file; pages are read on access.
struct GgufPart {
  std::unique_ptr<MappedFile> file;
  GgufContents contents;
};

// A model, vector or vocabulary in one file, or in all parts of a split one.
class GgufFile {
 public:
  // Throws UserError as open_gguf_parts does, which tells how the parts are found.
  explicit GgufFile(const std::filesystem::path& path);

  // The file with the metadata: the one file, or the first part.
  const std::filesystem::path& path() const { return parts_.front().file->path(); }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const {
    return parts_.front().contents.metadata;
  }
  // The tensors of all parts.
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }

  // Return nullptr if there is no such key or tensor.
  const GgufValue* find_value(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // Returns the file that holds a tensor of this model.
  const std::filesystem::path& path_of(const GgufTensor& tensor) const {
    return parts_[tensor.part].file->path();
  }

  // Releases the memory of a tensor's data after it was read; see MappedFile.
  void let_go(const GgufTensor& tensor) const { parts_[tensor.part].file->let_go(tensor.data); }

  // Returns the files of all parts.
  std::vector<const MappedFile*> files() const;

  // Returns a hash of the headers of all parts and of samples of every tensor's data.
  std::uint64_t fingerprint() const;

 private:
  std::vector<GgufPart> parts_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

}  // namespace bipo
