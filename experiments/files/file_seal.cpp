#include "experiments/files/file_seal.hpp"

#include <fmt/format.h>
#include <unistd.h>

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

// Returns fewer bytes than `bytes` has only where the file ends.
std::size_t read_at(const InputFile& file, std::uint64_t offset, std::span<std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::pread(file.get(), bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(offset + done));
    if (count < 0 && errno != EINTR) {
      throw EnvironmentError(
          fmt::format("read failed: {}", std::generic_category().message(errno)));
    }
    if (count == 0) {
      break;
    }
    done += count < 0 ? 0 : static_cast<std::size_t>(count);
  }
  return done;
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

Seal check_seal(const InputFile& file) {
  SealBytes seal;
  if (file.size() < sizeof(seal)) {
    return Seal::kNone;
  }
  const std::uint64_t content_bytes = file.size() - sizeof(seal);
  const bool is_there =
      read_at(file, content_bytes, std::as_writable_bytes(std::span(&seal, 1))) == sizeof(seal) &&
      std::string_view(seal.mark.data(), seal.mark.size()) == kMark &&
      seal.content_bytes == content_bytes;
  if (!is_there) {
    return Seal::kNone;
  }
  Checksum checksum;
  std::vector<std::byte> buffer(std::min<std::uint64_t>(content_bytes, 1 << 20));
  for (std::uint64_t offset = 0; offset < content_bytes; offset += buffer.size()) {
    const auto part = std::span(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), content_bytes - offset)));
    if (read_at(file, offset, part) != part.size()) {
      return Seal::kBroken;
    }
    checksum.add(part);
  }
  return checksum.digest() == seal.digest ? Seal::kIntact : Seal::kBroken;
}

}  // namespace bipo
