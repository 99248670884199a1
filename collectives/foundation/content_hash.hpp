// A 64-bit hash, by which ranks, and a run and its continuation, compare their data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bipo {

// FNV-1a (Fowler, Noll and Vo): the same on every machine; does not protect against forgery.
class ContentHash {
 public:
  void add_bytes(const void* data, std::size_t count) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < count; ++i) {
      value_ = (value_ ^ bytes[i]) * 1099511628211ULL;
    }
  }
  void add(std::string_view text) { add_bytes(text.data(), text.size()); }
  void add(std::uint64_t number) { add_bytes(&number, sizeof(number)); }

  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 14695981039346656037ULL;
};

}  // namespace bipo
