// Reads safetensors files, which are not trusted: every header is checked before a byte of data is
// used.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "trainer/model/files/mapped_file.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// One memory-mapped file; pages are read when touched.
class SafetensorsFile {
 public:
  struct Entry {
    at::ScalarType type = at::kFloat;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  // bytes, from the start of the data
    std::uint64_t end = 0;
  };

  // Throws UserError, naming the file and the rule, unless the header lies within the file and
  // within 100 MB, is an object without duplicate keys, knows every type, and describes tensors
  // whose sizes follow from type and shape and which fill the data without holes or overlaps.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, Entry>& entries() const { return entries_; }

  // The texts of __metadata__; it means nothing to a model.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Adds the first and last bytes of a tensor's data to `hash`.
  void add_sample(const std::string& name, ContentHash& hash) const;

  // A copy of the rows and columns asked for (columns empty: a 1-D tensor), in the file's type.
  at::Tensor read(const std::string& name, const Slice& slice) const;

 private:
  MappedFile file_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> data_;
};

}  // namespace bipo
