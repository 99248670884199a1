#include "experiments/files/atomic_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

class AtomicFile : public ::testing::Test {
 protected:
  AtomicFile() {
    fs::remove_all(directory_);
    fs::create_directory(directory_);
    std::ofstream(path()) << "old";
  }
  ~AtomicFile() override { fs::remove_all(directory_); }

  fs::path path() const { return directory_ / "run.h5"; }

  bool replace(const ReplaceGuard& may_replace) const {
    static const std::string text = "new";
    return replace_file(path(), std::as_bytes(std::span(text)), may_replace);
  }

  std::string content() const {
    std::string text;
    std::ifstream(path()) >> text;
    return text;
  }

  // As a job does that takes the file over from a writer that seems dead.
  void remove_other_files() const {
    for (const auto& entry : fs::directory_iterator(directory_)) {
      if (entry.path() != path()) {
        fs::remove(entry.path());
      }
    }
  }

 private:
  fs::path directory_ =
      fs::temp_directory_path() / ("bipo-atomic-file-" + std::to_string(::getpid()));
};

TEST_F(AtomicFile, IsReplacedWhereItMayBe) {
  EXPECT_TRUE(replace({}));
  EXPECT_EQ(content(), "new");
}

TEST_F(AtomicFile, StaysWhereItMayNotBeReplaced) {
  EXPECT_FALSE(replace([] { return false; }));
  EXPECT_EQ(content(), "old");
}

TEST_F(AtomicFile, AsksAgainWhereTheNewFileVanishedAfterTheAnswer) {
  int asked = 0;
  EXPECT_FALSE(replace([&] {
    remove_other_files();
    return ++asked == 1;
  }));
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(content(), "old");
}

TEST_F(AtomicFile, ReportsANewFileThatVanishedThoughNobodyTookOver) {
  EXPECT_THROW(replace([&] {
                 remove_other_files();
                 return true;
               }),
               EnvironmentError);
  EXPECT_EQ(content(), "old");
}

}  // namespace
}  // namespace bipo
