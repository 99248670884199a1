#include "trainer/model/files/file_hash.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "trainer/model/files/mapped_file.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

class FileHashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("bipo-file-hash-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    path_ = directory_ / "weights";
    std::string content((9 << 20) - 5, 'x');  // many pieces, and a part of one
    for (std::size_t i = 0; i < content.size(); i += 4096) {
      std::memcpy(content.data() + i, &i, sizeof(i));
    }
    std::ofstream(path_, std::ios::binary) << content;
    age(60);
  }
  void TearDown() override { fs::remove_all(directory_); }

  // Sets the time of the last change of the content.
  void age(std::int64_t seconds) const {
    const timespec time = {::time(nullptr) - seconds, 0};
    const timespec times[] = {time, time};
    ASSERT_EQ(::utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  }

  void flip(std::int64_t place) const {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(place);
    const int byte = file.get();
    file.seekp(place);
    file.put(static_cast<char>(byte ^ 1));
  }

  std::uint64_t hash() const { return file_hash(MappedFile(path_)); }

  HashMemory memory() const { return {directory_ / "memory", false, 1 << 20}; }

  std::vector<fs::path> remembered() const {
    std::vector<fs::path> files;
    if (!fs::exists(directory_ / "memory")) {
      return files;
    }
    for (const auto& entry : fs::directory_iterator(directory_ / "memory")) {
      files.push_back(entry.path());
    }
    return files;
  }

  fs::path directory_;
  fs::path path_;
};

TEST_F(FileHashTest, EveryPlaceCounts) {
  const std::uint64_t whole = hash();
  EXPECT_EQ(hash(), whole);
  for (const std::int64_t place :
       {0, 1, 5000, (4 << 20) - 1, 4 << 20, (6 << 20) + 17, (9 << 20) - 6}) {
    flip(place);
    age(60);  // the time of the last change of the content is as it was
    EXPECT_NE(hash(), whole) << place;
    flip(place);
  }
  EXPECT_EQ(hash(), whole);
  fs::resize_file(path_, (9 << 20) - 6);
  EXPECT_NE(hash(), whole);
}

TEST_F(FileHashTest, NamesDoNotCount) {
  const std::uint64_t whole = hash();
  fs::copy_file(path_, directory_ / "copy");
  EXPECT_EQ(file_hash(MappedFile(directory_ / "copy")), whole);
}

// The open file is hashed, not what has its name by then.
TEST_F(FileHashTest, HashesWhatIsMapped) {
  const std::uint64_t whole = hash();
  const MappedFile file(path_);
  fs::rename(path_, directory_ / "before");
  std::ofstream(path_) << "other";
  EXPECT_EQ(file_hash(file), whole);
}

TEST_F(FileHashTest, IsRememberedOnlyWhereNothingHasChangedForAWhile) {
  const std::uint64_t whole = file_hash(MappedFile(path_), memory());
  EXPECT_EQ(remembered().size(), 0U);  // a further change could show the same times
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  EXPECT_EQ(file_hash(MappedFile(path_), memory()), whole);
  ASSERT_EQ(remembered().size(), 1U);
  EXPECT_EQ(fs::status(remembered().front()).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  flip(5000);
  age(60);
  EXPECT_NE(file_hash(MappedFile(path_), memory()), whole);
}

// The signal of a page that is gone ends the process with a line; a signal elsewhere does what it
// did.
TEST_F(FileHashTest, WhoeverReadsAPageThatIsGoneEndsWithTheFilesName) {
  const MappedFile file(path_);
  const MappedFile other(directory_ / "../" / directory_.filename() / "weights");
  fs::resize_file(path_, 4096);
  EXPECT_EXIT(
      {
        volatile std::byte last = file.bytes().back();
        static_cast<void>(last);
      },
      ::testing::ExitedWithCode(1), "bipo-dist: .*weights: became shorter");
#ifdef __SANITIZE_ADDRESS__
  EXPECT_EXIT(::raise(SIGBUS), ::testing::ExitedWithCode(1), "AddressSanitizer: BUS");
#else
  EXPECT_EXIT(::raise(SIGBUS), ::testing::KilledBySignal(SIGBUS), "");
#endif
}

}  // namespace
}  // namespace bipo
