// Zip archives of torch.save, whole and with single fields changed.
#include "experiments/formats/stored_zip.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"
#include "tests/support/torch_bytes.hpp"

namespace bipo {
namespace {

using testing::as_bytes;
using testing::error_of;
using testing::expect_parts;
using testing::torch_seed;

// Places of the directory's entries and of the end record.
std::vector<std::size_t> find_all(const std::string& bytes, const std::string& signature) {
  std::vector<std::size_t> places;
  for (auto at = bytes.find(signature); at != std::string::npos;
       at = bytes.find(signature, at + 1)) {
    places.push_back(at);
  }
  return places;
}

template <typename Number>
void set(std::string& bytes, std::size_t place, Number value) {
  std::memcpy(bytes.data() + place, &value, sizeof(value));
}

template <typename Number>
Number get(const std::string& bytes, std::size_t place) {
  Number value{};
  std::memcpy(&value, bytes.data() + place, sizeof(value));
  return value;
}

class StoredZip : public ::testing::Test {
 protected:
  std::string bytes_ = torch_seed("zip_vector");
  std::vector<std::size_t> entries_ = find_all(bytes_, "PK\x01\x02");
  std::size_t end_ = find_all(bytes_, "PK\x05\x06").back();

  std::string refusal() const {
    return error_of<UserError>([&] { read_stored_zip(as_bytes(bytes_), "made.pt"); });
  }
  void expect_refused(const std::vector<std::string>& parts) const {
    expect_parts(refusal(), parts);
  }
};

TEST_F(StoredZip, EntriesAreThoseOfTheArchive) {
  const auto entries = read_stored_zip(as_bytes(bytes_), "made.pt");
  EXPECT_EQ(entries.size(), entries_.size());
  const float expected[] = {0.5F, -1.25F, 3.0F};
  const auto numbers = entries.at("zip_vector/data/0");
  ASSERT_EQ(numbers.size(), sizeof(expected));
  EXPECT_EQ(std::memcmp(numbers.data(), expected, sizeof(expected)), 0);
}

TEST_F(StoredZip, ACommentMayFollow) {
  set<std::uint16_t>(bytes_, end_ + 20, 3);
  bytes_ += "abc";
  EXPECT_EQ(read_stored_zip(as_bytes(bytes_), "made.pt").size(), entries_.size());
}

TEST_F(StoredZip, CompressedOrEncrypted) {
  set<std::uint16_t>(bytes_, entries_[0] + 10, 8);
  expect_refused({"zip_vector/data.pkl", "compressed"});
  set<std::uint16_t>(bytes_, entries_[0] + 10, 0);
  set<std::uint16_t>(bytes_, entries_[0] + 8, 1);
  expect_refused({"encrypted"});
  set<std::uint16_t>(bytes_, entries_[0] + 8, 0);
  set<std::uint32_t>(bytes_, entries_[0] + 20, 5);
  expect_refused({"compressed"});
}

TEST_F(StoredZip, SizesAndPlacesBeyondTheFile) {
  const auto set_size = [&](std::uint32_t size) {
    set(bytes_, entries_[0] + 20, size);
    set(bytes_, entries_[0] + 24, size);
  };
  const auto good = get<std::uint32_t>(bytes_, entries_[0] + 20);
  set_size(0xffffffff);
  expect_refused({"4 GiB"});
  set_size(0xfffffffe);
  expect_refused({"outside"});
  set_size(good);
  set<std::uint32_t>(bytes_, entries_[0] + 42, 0xfffffffe);
  expect_refused({"outside"});
  set<std::uint32_t>(bytes_, entries_[0] + 42, static_cast<std::uint32_t>(entries_[0]));
  expect_refused({"outside"});
}

TEST_F(StoredZip, EntriesThatOverlap) {
  const auto next = get<std::uint32_t>(bytes_, entries_[1] + 42);
  const std::uint32_t reaching = next;  // from the first entry's data into the second's header
  set(bytes_, entries_[0] + 20, reaching);
  set(bytes_, entries_[0] + 24, reaching);
  expect_refused({"overlap"});
}

TEST_F(StoredZip, NamesThatDiffer) {
  set(bytes_, entries_[0] + 42, get<std::uint32_t>(bytes_, entries_[1] + 42));
  expect_refused({"otherwise"});
}

TEST_F(StoredZip, ADirectoryThatIsWrong) {
  const std::string good = bytes_;
  for (const std::size_t field : {4U, 6U, 8U}) {  // disks, entries on this disk
    set<std::uint16_t>(bytes_, end_ + field, 1);
    expect_refused({"several"});
    bytes_ = good;
  }
  for (const std::size_t field : {12U, 16U}) {  // size, place
    set<std::uint32_t>(bytes_, end_ + field, static_cast<std::uint32_t>(end_ + 1));
    expect_refused({"outside"});
    bytes_ = good;
  }
  for (const std::uint16_t count : {0, 1, 8, 65535}) {
    set(bytes_, end_ + 8, count);
    set(bytes_, end_ + 10, count);
    expect_refused({"directory"});
  }
  bytes_ = good;
  set<std::uint16_t>(bytes_, entries_[0] + 28, 65535);
  expect_refused({"directory"});
}

TEST_F(StoredZip, AnEntryTwice) {
  const std::size_t directory = get<std::uint32_t>(bytes_, end_ + 16);
  const std::string first = bytes_.substr(entries_[0], entries_[1] - entries_[0]);
  const auto count = static_cast<std::uint16_t>(entries_.size() + 1);
  set(bytes_, end_ + 8, count);
  set(bytes_, end_ + 10, count);
  set(bytes_, end_ + 12,
      static_cast<std::uint32_t>(get<std::uint32_t>(bytes_, end_ + 12) + first.size()));
  bytes_.insert(directory, first);
  // The data still end before the directory, which begins where it did.
  expect_refused({"twice"});
}

}  // namespace
}  // namespace bipo
