// NVRTC compiles our kernels for GPUs that are not here, and what it made is kept in files.
#include "trainer/model/device_kernels/nvrtc.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/device_kernels/kernel_cache.hpp"

namespace bipo {
namespace {

const Nvrtc& compiler() {
  static const Nvrtc nvrtc({BIPO_TEST_NVRTC});
  return nvrtc;
}

class KernelsFor : public ::testing::TestWithParam<std::string> {};

TEST_P(KernelsFor, CompileWithAllTheirEntryPoints) {
  const std::string code = compiler().compile(kKernelSource, GetParam());
  EXPECT_TRUE(code.starts_with("\177ELF"));
#define BIPO_NAME(kernel, Arguments) #kernel,
  for (const char* kernel : {BIPO_EACH_KERNEL(BIPO_NAME)}) {
    for (const char* type : {"float32", "bfloat16", "float64"}) {
      const std::string name = fmt::format("{}_{}", kernel, type);
      EXPECT_NE(code.find(".text." + name), std::string::npos) << name;
    }
  }
#undef BIPO_NAME
}

INSTANTIATE_TEST_SUITE_P(Gpus, KernelsFor, ::testing::Values("sm_80", "sm_90", "sm_100"),
                         [](const auto& gpu) { return gpu.param; });

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Nvrtc, SaysWhatDoesNotCompile) {
  const std::string wrong =
      message_of([] { compiler().compile("__global__ void f() { wrong(); }", "sm_90"); });
  EXPECT_NE(wrong.find("wrong"), std::string::npos) << wrong;
  EXPECT_NE(wrong.find("sm_90"), std::string::npos) << wrong;
  EXPECT_NE(message_of([] { compiler().compile("", "sm_1"); }).find("sm_1"), std::string::npos);
}

TEST(Nvrtc, SaysWhereItWasLookedFor) {
  const std::string missing = message_of([] { Nvrtc({"/nowhere/libnvrtc.so.13"}); });
  EXPECT_NE(missing.find("/nowhere/libnvrtc.so.13"), std::string::npos) << missing;
}

class KernelCache : public ::testing::Test {
 protected:
  KernelCache()
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("kernel_cache_test_{}", ::getpid())) {}
  ~KernelCache() override { std::filesystem::remove_all(folder_); }

  std::string code(const std::string& source = kSource) const {
    return device_code(compiler(), source, "sm_90", folder_ / "kernels");
  }
  std::filesystem::path file(const std::string& source = kSource) const {
    return device_code_file(compiler(), source, "sm_90", folder_ / "kernels");
  }
  static std::string read(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }

  inline static const std::string kSource = "extern \"C\" __global__ void first() {}";
  inline static const std::string kOther = "extern \"C\" __global__ void second() {}";
  std::filesystem::path folder_;
};

TEST_F(KernelCache, ReadsWhatIsKept) {
  const std::string compiled = code();
  EXPECT_EQ(compiled, compiler().compile(kSource, "sm_90"));
  const std::string kept = read(file());
  EXPECT_EQ(code(), compiled);
  // Another code under the same key, whole: it is taken for what the key was compiled to.
  const std::string other = "other code";
  ContentHash hash;
  hash.add(other);
  const std::string key = kept.substr(0, kept.find('\n')).substr(0, 40);
  write(file(), fmt::format("{} {:016x} {}\n{}", key, hash.value(), other.size(), other));
  EXPECT_EQ(code(), other);
}

TEST_F(KernelCache, ADamagedFileIsMadeAgain) {
  const std::string compiled = code();
  const std::string kept = read(file());
  std::string changed = kept;
  changed[kept.size() / 2] = static_cast<char>(changed[kept.size() / 2] ^ 1);
  for (const std::string& damaged :
       {changed, kept.substr(0, kept.size() - 1), kept + "x", std::string(), std::string("\n")}) {
    write(file(), damaged);
    EXPECT_EQ(code(), compiled);
    EXPECT_EQ(read(file()), kept);
  }
}

TEST_F(KernelCache, AFileOfAnotherSourceIsNotTaken) {
  const std::string second = code(kOther);
  code();
  EXPECT_NE(file(), file(kOther));
  write(file(), read(file(kOther)));
  EXPECT_EQ(code(), compiler().compile(kSource, "sm_90"));
  EXPECT_NE(code(), second);
}

TEST_F(KernelCache, NothingIsLeftBehindAndNothingIsNeeded) {
  code();
  const std::filesystem::directory_iterator files(folder_ / "kernels");
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
  const std::string compiled = compiler().compile(kSource, "sm_90");
  EXPECT_EQ(device_code(compiler(), kSource, "sm_90", {}), compiled);
  write(folder_ / "file", "");  // no folder can be made there
  EXPECT_EQ(device_code(compiler(), kSource, "sm_90", folder_ / "file" / "kernels"), compiled);
}

}  // namespace
}  // namespace bipo
