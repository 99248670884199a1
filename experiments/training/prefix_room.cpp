#include "experiments/training/prefix_room.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "datasets/batches/prefix_packs.hpp"
#include "experiments/training/pack_room.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {
namespace {

// Pairs that are kept are packed, the others go one by one.
PackedData packed_data(const std::vector<TokenPair>& pairs, bool is_kept, std::int64_t blocks) {
  return {pairs,
          [tokens = packed_sizes(pairs), is_kept](std::int64_t tokens_of_pack) {
            return device_packs(tokens, is_kept ? tokens_of_pack : 1);
          },
          blocks};
}

}  // namespace

void choose_prefix_packs(JobPreparation& job, const DataRequest& request) {
  if (job.computation.device.is_cpu()) {
    return;
  }
  const std::int64_t before =
      SteeredPlace{request.layers.front(), job.options.site}.blocks_before();
  // The last block computes fewer rows.
  const std::int64_t before_last = std::max(before, job.inputs.config.blocks - 1);
  PackedPass pass;
  pass.name = kPrefixPass;
  pass.remedy = "shorter pairs (--max-length), a later --layer or a larger --tp";
  std::uint64_t budget =
      job.options.cache_budget.value_or(std::numeric_limits<std::uint64_t>::max());
  const auto add = [&](const std::vector<TokenPair>& pairs, std::int64_t blocks) {
    const bool is_kept = keeps_activations(job, pairs, request.layers.size(), budget);
    pass.data.push_back(packed_data(pairs, is_kept, blocks));
  };
  add(job.inputs.train, request.reference ? before_last : before);
  if (request.evaluates) {
    add(job.inputs.test, before_last);
  }
  for (std::int64_t block = 0; block < before_last; ++block) {
    // Blocks before the layer's are there by themselves, those behind it stay.
    pass.weights.push_back(
        weight_bytes(job, {std::min(block, before), block + 1}, /*embedding=*/true));
  }
  choose_packs(job, pass);
}

}  // namespace bipo
