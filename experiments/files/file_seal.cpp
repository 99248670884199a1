#include "experiments/files/file_seal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "experiments/files/checksum.hpp"

namespace bipo {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMark = "bipo-sum";

struct SealBytes {
  std::array<char, 8> mark{};
  std::uint64_t content_bytes = 0;
  Checksum::Digest digest{};
};
static_assert(sizeof(SealBytes) == 32);

// Returns whether all bytes were read, false only where the file ends.
bool read_all(const InputFile& file, std::uint64_t offset, std::span<std::byte> bytes) {
  const ssize_t count = read_at(file.get(), bytes, offset);
  if (count < 0) {
    throw EnvironmentError(fmt::format("read failed: {}", std::generic_category().message(errno)));
  }
  return static_cast<std::size_t>(count) == bytes.size();
}

bool is_seal_of(const SealBytes& seal, std::uint64_t content_bytes) {
  return std::string_view(seal.mark.data(), seal.mark.size()) == kMark &&
         seal.content_bytes == content_bytes;
}

}  // namespace

void add_seal(std::vector<std::byte>& content) {
  SealBytes seal;
  std::copy(kMark.begin(), kMark.end(), seal.mark.begin());
  seal.content_bytes = content.size();
  Checksum checksum;
  checksum.add(content);
  seal.digest = checksum.digest();
  const auto bytes = std::as_bytes(std::span(&seal, 1));
  content.insert(content.end(), bytes.begin(), bytes.end());
}

Seal check_seal(std::span<const std::byte> file) {
  SealBytes seal;
  if (file.size() < sizeof(seal)) {
    return Seal::kNone;
  }
  const auto content = file.first(file.size() - sizeof(seal));
  std::memcpy(&seal, file.data() + content.size(), sizeof(seal));
  if (!is_seal_of(seal, content.size())) {
    return Seal::kNone;
  }
  Checksum checksum;
  checksum.add(content);
  return checksum.digest() == seal.digest ? Seal::kIntact : Seal::kBroken;
}

Seal check_seal(const InputFile& file) {
  SealBytes seal;
  if (file.size() < sizeof(seal)) {
    return Seal::kNone;
  }
  const std::uint64_t content_bytes = file.size() - sizeof(seal);
  if (!read_all(file, content_bytes, std::as_writable_bytes(std::span(&seal, 1))) ||
      !is_seal_of(seal, content_bytes)) {
    return Seal::kNone;
  }
  Checksum checksum;
  std::vector<std::byte> buffer(std::min<std::uint64_t>(content_bytes, 1 << 20));
  for (std::uint64_t offset = 0; offset < content_bytes; offset += buffer.size()) {
    const auto part = std::span(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), content_bytes - offset)));
    if (!read_all(file, offset, part)) {
      return Seal::kBroken;
    }
    checksum.add(part);
  }
  return checksum.digest() == seal.digest ? Seal::kIntact : Seal::kBroken;
}

}  // namespace bipo
