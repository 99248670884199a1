#include "trainer/model/operators/cpu_memory.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kBytes =
    102'400;  // below the size at which malloc asks the system for pages of their own

at::Tensor block(std::int64_t bytes) {
  return at::empty({bytes}, at::kByte);
}

TEST(CompactCpuMemory, AlignsTensorsToCacheLines) {
  use_compact_cpu_memory();
  for (const std::int64_t bytes : {1, 63, 64, 65, 4096, 100'000, 40'000'000}) {
    const at::Tensor tensor = block(bytes).fill_(7);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64, 0u) << bytes;
    EXPECT_EQ(tensor.sum(at::kLong).item<std::int64_t>(), 7 * bytes);
  }
  EXPECT_EQ(block(0).numel(), 0);
}

TEST(CompactCpuMemory, FreedBlocksServeRequestsOfTheirOwnSize) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps freed blocks apart";
#endif
  use_compact_cpu_memory();
  std::vector<at::Tensor> blocks;
  for (int i = 0; i < 64; ++i) {
    blocks.push_back(block(kBytes));
  }
  // Nothing else may be allocated once there are holes: it could lie in one.
  std::set<const void*> freed;
  std::vector<at::Tensor> later;
  for (std::size_t i = 1; i < blocks.size(); i += 2) {
    freed.insert(blocks[i].data_ptr());
  }
  later.reserve(freed.size());
  for (std::size_t i = 1; i < blocks.size(); i += 2) {  // the neighbours stay: no two holes join
    blocks[i].reset();
  }
  std::size_t reused = 0;
  for (std::size_t i = 0; i < freed.size(); ++i) {
    later.push_back(block(kBytes));
    reused += freed.count(later.back().data_ptr());
  }
  EXPECT_EQ(reused, freed.size());
}

TEST(CompactCpuMemory, NamesWhatTheSystemRefuses) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer ends the process at such a request";
#endif
  use_compact_cpu_memory();
  EXPECT_THROW(block(std::numeric_limits<std::int64_t>::max() / 2), EnvironmentError);
}

}  // namespace
}  // namespace bipo
