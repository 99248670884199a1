// Reads safetensors files, which are not trusted: checks every header before it uses a byte of
// data.
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

// One memory-mapped file; pages are read on access.
class SafetensorsFile {
 public:
  struct Entry {
    at::ScalarType type = at::kFloat;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;  // bytes, from the start of the data
    std::uint64_t end = 0;
  };

  // Throws UserError, naming the file and the rule, unless the header is within the file and 100
  // MB, is an object without duplicate keys, has known types only, and describes tensors whose
  // sizes follow from type and shape and which fill the data without holes or overlaps.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const MappedFile& file() const { return file_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }

  // The texts of __metadata__, which no model needs.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Adds the first and last bytes of a tensor's data to `hash`.
  void add_sample(const std::string& name, ContentHash& hash) const;

  // Whether two tensors have the same type, shape and bytes.  Reads both up to the first
  // difference.
  bool holds_same(const std::string& name, const SafetensorsFile& other,
                  const std::string& other_name) const;

  // Returns a copy of these rows and columns (a 1-D tensor has no columns), in the file's type.  A
  // tensor [rows, 1, columns], of a convolution by channels, is a matrix.
  at::Tensor read(const std::string& name, const Slice& slice) const;

  // The same of several ranges of rows, one below the other.
  at::Tensor read(const std::string& name, const std::vector<Range>& rows, Range columns) const;

 private:
  MappedFile file_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> data_;
};

}  // namespace bipo
