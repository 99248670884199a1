// Names of models against a cache as huggingface_hub lays it out.
#include "trainer/model/hub/hub_cache.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "collectives/foundation/errors.hpp"
#include "tests/support/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

class HubCache : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) {
      unsetenv(name);
    }
    fs::create_directories(folder_ / "snapshots" / "0123");
    fs::create_directories(folder_ / "snapshots" / "4567");
    fs::create_directories(folder_ / "refs" / "pr");
    std::ofstream(folder_ / "refs" / "main") << "0123\n";
    std::ofstream(folder_ / "refs" / "pr" / "1") << "4567";
    std::ofstream(folder_ / "snapshots" / "0123" / "config.json") << "{}";
    setenv("HF_HUB_CACHE", root_.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(root_); }

  const fs::path root_ = fs::path(::testing::TempDir()) / ("bipo-hub-" + std::to_string(getpid()));
  const fs::path folder_ = root_ / "models--me--tiny";
};

TEST_F(HubCache, LiesWhereHuggingfaceHubLooks) {
  EXPECT_EQ(hub_cache_directory(), root_);
  unsetenv("HF_HUB_CACHE");
  setenv("HOME", "/home/me", 1);
  EXPECT_EQ(hub_cache_directory(), "/home/me/.cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "$HOME/c", 1);
  EXPECT_EQ(hub_cache_directory(), "/home/me/c/huggingface/hub");
  setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(hub_cache_directory(), "/home/me/hf/hub");
  setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_EQ(hub_cache_directory(), "/old");
  setenv("HF_HUB_CACHE", "${HOME}/x$", 1);
  EXPECT_EQ(hub_cache_directory(), "/home/me/x$");
}

TEST_F(HubCache, NamesLeadToSnapshots) {
  for (const char* name : {"me/tiny", "me/tiny@main", "me/tiny@0123", "models--me--tiny"}) {
    EXPECT_EQ(find_model(name).path, folder_ / "snapshots" / "0123") << name;
    EXPECT_NE(find_model(name).note.find("0123"), std::string::npos);
  }
  EXPECT_EQ(find_model("me/tiny@pr/1").path, folder_ / "snapshots" / "4567");
  EXPECT_EQ(find_model(folder_).path, folder_ / "snapshots" / "0123");
  EXPECT_EQ(find_model(folder_ / "").path, folder_ / "snapshots" / "0123");
}

TEST_F(HubCache, OtherPathsStayAsTheyAre) {
  for (const fs::path& path :
       {fs::path(), root_, folder_ / "snapshots" / "0123", fs::path("me/other"), fs::path("a/b/c"),
        fs::path("../tiny"), fs::path("me/tiny/"), fs::path("me--x/tiny")}) {
    EXPECT_EQ(find_model(path).path, path);
    EXPECT_EQ(find_model(path).note, "");
  }
}

TEST_F(HubCache, WhatIsMissingNamesTheDownload) {
  testing::expect_parts(
      testing::error_of<UserError>([] { find_model("me/tiny@v3"); }),
      {"no snapshot of \"v3\"", "0123, 4567", "hf download me/tiny --revision v3"});
  for (const char* name : {"me/tiny@../../x", "me/tiny@", "me/tiny@/etc"}) {
    testing::expect_parts(testing::error_of<UserError>([&] { find_model(name); }),
                          {"is no revision"});
  }
  EXPECT_EQ(resolved_model_path("me/tiny@v3"), "me/tiny@v3");
  const fs::path snapshot = folder_ / "snapshots" / "0123";
  require_complete_snapshot(snapshot, "config.json");
  testing::expect_parts(
      testing::error_of<UserError>([&] { require_complete_snapshot(snapshot, "tokenizer.json"); }),
      {"tokenizer.json", "hf download me/tiny --revision 0123"});
  fs::create_symlink("../../blobs/none", snapshot / "model.safetensors");
  testing::expect_parts(
      testing::error_of<UserError>([&] { require_complete_snapshot(snapshot, "config.json"); }),
      {"model.safetensors", "broken links", "hf download me/tiny"});
  require_complete_snapshot(root_, "config.json");  // is no snapshot
  EXPECT_EQ(download_advice(root_), "get the model again");
}

}  // namespace
}  // namespace bipo
