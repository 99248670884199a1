// Builds GGUF files byte by byte, also such as no writer would produce.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace bipo::testing {

template <typename T>
std::string encoded(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline std::string encoded_string(std::string_view text) {
  return encoded<std::uint64_t>(text.size()) + std::string(text);
}

// Numbers that files use for types, from the format's description.
inline constexpr std::uint32_t kMetaUint32 = 4;
inline constexpr std::uint32_t kMetaFloat32 = 6;
inline constexpr std::uint32_t kMetaString = 8;
inline constexpr std::uint32_t kMetaArray = 9;
inline constexpr std::uint32_t kTensorF32 = 0;
inline constexpr std::uint32_t kTensorF16 = 1;
inline constexpr std::uint32_t kTensorQ8_0 = 8;

struct GgufBytes {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // of the data; a key that says so is the caller's
  std::vector<std::string> keys;
  std::vector<std::string> infos;
  std::string data;

  void add_key(std::string_view name, std::uint32_t type, const std::string& value) {
    keys.push_back(encoded_string(name) + encoded(type) + value);
  }
  void add_size(std::string_view name, std::uint32_t value) {
    add_key(name, kMetaUint32, encoded(value));
  }
  void add_float(std::string_view name, float value) {
    add_key(name, kMetaFloat32, encoded(value));
  }
  void add_text(std::string_view name, std::string_view value) {
    add_key(name, kMetaString, encoded_string(value));
  }
  // `count` elements whose encodings are `elements`.
  void add_array(std::string_view name, std::uint32_t type, std::uint64_t count,
                 const std::string& elements) {
    add_key(name, kMetaArray, encoded(type) + encoded(count) + elements);
  }

  // `extents` in the files' order: the shortest stride first.
  void add_info(std::string_view name, const std::vector<std::uint64_t>& extents,
                std::uint32_t type, std::uint64_t offset) {
    std::string info = encoded_string(name) + encoded(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) {
      info += encoded(extent);
    }
    infos.push_back(info + encoded(type) + encoded(offset));
  }
  // At the next aligned place.
  void add_tensor(std::string_view name, const std::vector<std::uint64_t>& extents,
                  std::uint32_t type, const std::string& values) {
    data.resize(padded(data.size()), '\0');
    add_info(name, extents, type, data.size());
    data += values;
  }

  std::string build() const {
    std::string bytes = magic + encoded(version) + encoded<std::uint64_t>(infos.size()) +
                        encoded<std::uint64_t>(keys.size());
    for (const auto& parts : {keys, infos}) {
      for (const std::string& part : parts) {
        bytes += part;
      }
    }
    bytes.resize(padded(bytes.size()), '\0');
    return bytes + data;
  }

 private:
  std::size_t padded(std::size_t size) const {
    return (size + alignment - 1) / alignment * alignment;
  }
};

}  // namespace bipo::testing
