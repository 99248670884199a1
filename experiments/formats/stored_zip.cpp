#include "experiments/formats/stored_zip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/binary_format.hpp"

namespace bipo {
namespace {

// Sizes and offsets of fields follow the description of the ZIP format (PKWARE APPNOTE 4.3).
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kDirectorySignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::size_t kLocalBytes = 30;
constexpr std::size_t kDirectoryBytes = 46;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kLongestComment = 65535;
constexpr std::uint16_t kEncrypted = 1;
constexpr std::uint32_t kElsewhere = 0xffffffff;  // the value is in a ZIP64 record

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, const std::string& name)
      : bytes_(bytes), name_(name) {}

  std::map<std::string, std::span<const std::byte>> read() {
    const std::size_t end = find_end();
    const auto count = field<std::uint16_t>(end + 10);
    const auto directory_bytes = field<std::uint32_t>(end + 12);
    const auto directory = field<std::uint32_t>(end + 16);
    if (field<std::uint16_t>(end + 4) != 0 || field<std::uint16_t>(end + 6) != 0 ||
        field<std::uint16_t>(end + 8) != count) {
      refuse("is one part of several");
    }
    if (directory > end || directory_bytes > end - directory) {
      refuse("has its directory outside of the file");
    }
    directory_ = directory;
    std::size_t position = directory;
    for (std::uint16_t i = 0; i < count; ++i) {
      position = read_entry(position, directory + directory_bytes);
    }
    if (position != std::size_t{directory} + directory_bytes) {
      refuse("has a directory whose length is not the recorded one");
    }
    require_no_overlap();
    return std::move(entries_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(
        fmt::format("{}: the zip archive {}; the file is damaged, or torch.save did not write it",
                    name_, what));
  }

  template <typename Number>
  Number field(std::size_t position) const {
    return number_at<Number>(bytes_, position);
  }

  std::string_view text(std::size_t position, std::size_t size) const {
    return text_of(bytes_.subspan(position, size));
  }

  // Searches backwards: a comment of any text may follow the end record, which has its length.
  std::size_t find_end() const {
    if (bytes_.size() >= kEndBytes) {
      const std::size_t last = bytes_.size() - kEndBytes;
      const std::size_t first = last - std::min(last, kLongestComment);
      for (std::size_t position = last + 1; position-- > first;) {
        if (field<std::uint32_t>(position) == kEndSignature &&
            field<std::uint16_t>(position + 20) == last - position) {
          return position;
        }
      }
    }
    refuse("has no directory at its end: it was cut short");
  }

  // Returns where the next entry begins; `limit`: the end of the directory.
  std::size_t read_entry(std::size_t position, std::size_t limit) {
    if (limit - position < kDirectoryBytes ||
        field<std::uint32_t>(position) != kDirectorySignature) {
      refuse("has a damaged directory");
    }
    const auto stored = field<std::uint32_t>(position + 20);
    const auto size = field<std::uint32_t>(position + 24);
    const auto name_size = field<std::uint16_t>(position + 28);
    const std::size_t rest = std::size_t{name_size} + field<std::uint16_t>(position + 30) +
                             field<std::uint16_t>(position + 32);
    const auto local = field<std::uint32_t>(position + 42);
    if (limit - position - kDirectoryBytes < rest) {
      refuse("has a damaged directory");
    }
    const std::string_view entry = text(position + kDirectoryBytes, name_size);
    const std::string shown = printable(entry);
    if (stored == kElsewhere || size == kElsewhere || local == kElsewhere) {
      refuse(fmt::format("is larger than 4 GiB at {}; no vector is", shown));
    }
    if (field<std::uint16_t>(position + 10) != 0 || stored != size ||
        (field<std::uint16_t>(position + 8) & kEncrypted) != 0) {
      refuse(fmt::format("holds {} compressed or encrypted", shown));
    }
    add_entry(entry, local, size);
    return position + kDirectoryBytes + rest;
  }

  void add_entry(std::string_view entry, std::size_t local, std::size_t size) {
    const std::string shown = printable(entry);
    if (local > directory_ || directory_ - local < kLocalBytes ||
        field<std::uint32_t>(local) != kLocalSignature) {
      refuse(fmt::format("holds {} outside of the file", shown));
    }
    const auto name_size = field<std::uint16_t>(local + 26);
    const std::size_t header = kLocalBytes + name_size + field<std::uint16_t>(local + 28);
    if (directory_ - local < header || directory_ - local - header < size) {
      refuse(fmt::format("holds {} outside of the file", shown));
    }
    if (text(local + kLocalBytes, name_size) != entry || field<std::uint16_t>(local + 8) != 0) {
      refuse(fmt::format("names {} otherwise in its directory", shown));
    }
    if (!entries_.emplace(entry, bytes_.subspan(local + header, size)).second) {
      refuse(fmt::format("holds {} twice", shown));
    }
    extents_.emplace_back(local, local + header + size);
  }

  void require_no_overlap() {
    std::sort(extents_.begin(), extents_.end());
    for (std::size_t i = 1; i < extents_.size(); ++i) {
      if (extents_[i].first < extents_[i - 1].second) {
        refuse("has entries that overlap");
      }
    }
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t directory_ = 0;  // where it begins, and the entries' data end
  std::map<std::string, std::span<const std::byte>> entries_;
  std::vector<std::pair<std::size_t, std::size_t>> extents_;  // headers and data
};

}  // namespace

bool is_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= sizeof(kLocalSignature) &&
         number_at<std::uint32_t>(bytes, 0) == kLocalSignature;
}

std::map<std::string, std::span<const std::byte>> read_stored_zip(std::span<const std::byte> bytes,
                                                                  const std::string& name) {
  return ZipReader(bytes, name).read();
}

}  // namespace bipo
