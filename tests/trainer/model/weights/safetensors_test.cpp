// Headers of safetensors files such as no writer would produce, and how they are refused.
#include "trainer/model/weights/safetensors.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

// How a file with this header and this many bytes of data is refused.
std::string refusal(const std::string& header, std::size_t data_bytes) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("bipo-safetensors-" + std::to_string(::getpid()) + ".safetensors");
  const std::uint64_t size = header.size();
  std::string bytes(sizeof(size), '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  std::ofstream(path, std::ios::binary) << bytes << header << std::string(data_bytes, '\0');
  const std::string message = testing::error_of<UserError>([&] { SafetensorsFile{path}; });
  std::filesystem::remove(path);
  return message;
}

std::string header_with(const std::string& shape) {
  return R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,0]}})";
}

// Parsing such a header takes no stack, but writing it into the message would.
TEST(Safetensors, AShapeNestedBeyondReasonIsRefused) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  testing::expect_parts(refusal(header_with(deep), 0), {"header", "nested more than 100"});
}

TEST(Safetensors, AnExtentBeyondSignedNumbersIsRefused) {
  testing::expect_parts(refusal(header_with("[0,9223372036854775808]"), 0),
                        {"tensor a", "too large"});
}

}  // namespace
}  // namespace bipo
