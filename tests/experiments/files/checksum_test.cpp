// The checksum, against values of Python's hashlib.blake2b(data, digest_size=16).
#include "experiments/files/checksum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace bipo {
namespace {

std::vector<std::byte> sample_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(i * 7 % 251);
  }
  return bytes;
}

std::string checksum_of(std::size_t count) {
  Checksum checksum;
  checksum.add(sample_bytes(count));
  return checksum.text();
}

TEST(Checksum, IsBlake2b) {
  EXPECT_EQ(checksum_of(0), "cae66941d9efbd404e4d88758ea67670");
  EXPECT_EQ(checksum_of(1), "7025e075d5e2f6cde3cc051a31f07660");
  EXPECT_EQ(checksum_of(127), "8880c15d5ce64385d299599516f7037a");
  EXPECT_EQ(checksum_of(128), "57e95fca0247d40bfd1439eb362ad9ea");
  EXPECT_EQ(checksum_of(129), "060d056ab12d3852d34fd6a721c512e7");
  EXPECT_EQ(checksum_of(256), "8d9f76fd382990900afde79ea1a6ee8c");
  EXPECT_EQ(checksum_of(1000), "a00baeab3f4fcf20f48d759d1a18c283");
}

TEST(Checksum, DoesNotDependOnTheParts) {
  const std::vector<std::byte> bytes = sample_bytes(1000);
  for (const std::size_t part : {1, 3, 64, 127, 128, 129, 500}) {
    Checksum checksum;
    for (std::size_t i = 0; i < bytes.size(); i += part) {
      checksum.add(std::span(bytes).subspan(i, std::min(part, bytes.size() - i)));
    }
    EXPECT_EQ(checksum.text(), checksum_of(1000)) << part;
  }
}

}  // namespace
}  // namespace bipo
