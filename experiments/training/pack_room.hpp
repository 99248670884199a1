// Looks, before anything is loaded, whether a device has room for a pass that takes pairs through
// the blocks of a model in packs, and chooses what it packs together.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "datasets/tokens/token_pair.hpp"
#include "experiments/training/run_preparation.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// Pairs that go through the same blocks.
struct PackedData {
  const std::vector<TokenPair>& pairs;
  // Returns the packs that there are if they have so many tokens, see fit_into_device_pack().
  std::function<std::vector<std::vector<std::int64_t>>(std::int64_t tokens)> packs;
  std::int64_t blocks = 0;  // the first ones, through which all rows of a pack go
};

struct PackedPass {
  std::string name;  // "the prefix pass"
  std::vector<PackedData> data;
  std::vector<std::uint64_t> weights;  // bytes that are loaded while each block runs
  bool keeps_rows = false;  // the rows of all packs are on the device whichever is in a block
  std::string remedy;       // of a pair without room: "shorter pairs (--max-length) or ..."
};

// Names packs of so many tokens in messages.
std::string packs_text(std::int64_t tokens);

// Chooses job.device_pack: kTokensPerDevicePack, or less where, by what is counted of the packs,
// the largest has certainly no room beside what is on the device at that time, which a warning
// says, because last bits depend on the packs.  Notes in job.pack_bytes what the work on the
// largest one takes at least.  Throws UserError where a pair by itself has certainly no room,
// unless files of --cache-dir may spare the pass.  Local: ranks whose devices have other room may
// come to another result, on which agreed_pack() agrees.
void choose_packs(JobPreparation& job, const PackedPass& pass);

}  // namespace bipo
