// Files that are read, none of which is trusted: each is opened once, and what is open is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {

// The most bytes of a file of one kind; real files are far smaller.
inline constexpr std::uint64_t kMostSettingsBytes = std::uint64_t{64} << 20;  // JSON, INI, Jinja
inline constexpr std::uint64_t kMostTextBytes = std::uint64_t{64} << 30;      // data, tokenizers

// Opens a regular file for reading, and owns its descriptor.
class InputFile {
 public:
  // Follows symbolic links.  Throws UserError for a path that cannot be opened and for anything but
  // a regular file: a pipe, whose open() would wait for its other end, or a device, which may have
  // no end.
  explicit InputFile(const std::filesystem::path& path);
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  int get() const { return file_.get(); }
  std::uint64_t size() const { return size_; }  // when it was opened

  // Says whether the file's first bytes are these.  Throws EnvironmentError where it cannot be
  // read.
  bool begins_with(std::string_view mark) const;

  // Returns the whole file.  Throws UserError where it has more than `most_bytes`, or more than the
  // machine has memory, EnvironmentError where it cannot be read.
  std::string read(std::uint64_t most_bytes) const;

 private:
  std::string read_first(std::size_t length) const;

  std::filesystem::path path_;
  FileDescriptor file_;
  std::uint64_t size_ = 0;
};

// Returns the whole file, with the errors of both.
std::string read_input_file(const std::filesystem::path& path, std::uint64_t most_bytes);

}  // namespace bipo
