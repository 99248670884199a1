#include "experiments/training/extraction_room.hpp"

#include <cstdint>

#include "experiments/training/pack_room.hpp"

namespace bipo {

void choose_extraction_packs(JobPreparation& job, const std::vector<TokenPair>& pairs,
                             ExtractionSettings& settings) {
  if (job.computation.device.is_cpu()) {
    return;
  }
  const std::vector<TokenPair> lengthened =
      settings.answers_end_with_eos ? std::vector<TokenPair>() : with_token_to_leave_out(pairs);
  const std::vector<TokenPair>& packed = settings.answers_end_with_eos ? pairs : lengthened;
  const std::int64_t blocks = settings.layers.back() + 1;
  PackedPass pass;
  pass.name = kExtractionPass;
  pass.data.push_back({packed,
                       [&](std::int64_t tokens) {
                         return extraction_packs(packed, tokens, job.computation.topology);
                       },
                       blocks});
  for (std::int64_t block = 0; block < blocks; ++block) {
    const Range loaded = settings.block_by_block ? Range{block, block + 1} : Range{0, blocks};
    pass.weights.push_back(weight_bytes(job, loaded, /*embedding=*/!settings.block_by_block));
  }
  pass.keeps_rows = settings.block_by_block;
  pass.remedy = settings.block_by_block
                    ? "shorter or fewer pairs (--max-length, --max-pairs) or a larger --tp"
                    : "shorter pairs (--max-length), lower layers or a larger --tp";
  choose_packs(job, pass);
  settings.device_pack = job.device_pack;
}

}  // namespace bipo
