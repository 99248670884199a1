// The checksum of what HDF5 files of the program hold: BLAKE2b (RFC 7693) of 16 bytes, without a
// key.  Python's hashlib.blake2b(data, digest_size=16) is the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bipo {

// Finds damage and changes; does not protect against forgery, because it has no key.
class Checksum {
 public:
  static constexpr std::size_t kBytes = 16;
  using Digest = std::array<std::byte, kBytes>;

  Checksum();

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }

  // Returns the checksum of everything added.  Call it once, at the end.
  Digest digest();

  // Returns the same as 32 hexadecimal digits.
  std::string text();

 private:
  static constexpr std::size_t kBlock = 128;

  void compress(bool is_last);

  std::array<std::uint64_t, 8> state_;
  std::array<std::byte, kBlock> block_{};
  std::size_t filled_ = 0;   // bytes of the block
  std::uint64_t total_ = 0;  // bytes compressed, with those of the block at a compression
};

}  // namespace bipo
