#include "experiments/training/pack_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/cost/forward_memory.hpp"

namespace bipo {
namespace {

// What the device certainly holds while a pack is in a block.
struct PackMoment {
  double beside = 0;  // weights, and the rows of other packs that wait
  double work = 0;
  std::string first_pair;  // of the pack
  double tokens = 0;       // of the pack

  double bytes() const { return beside + work; }
  bool has_room(double free) const { return bytes() <= free; }
};

class PackRoom {
 public:
  PackRoom(const JobPreparation& job, const PackedPass& pass)
      : job_(job), pass_(pass), bytes_(element_bytes(job.computation)) {}

  // Returns the moment that takes most with packs of so many tokens.
  PackMoment most(std::int64_t tokens_of_pack) const {
    std::vector<std::vector<Pack>> packs;  // of all data
    double waiting = 0;                    // tokens of all packs
    for (const PackedData& data : pass_.data) {
      for (const Pack& pack : packs.emplace_back(packs_of(data, tokens_of_pack))) {
        waiting += pass_.keeps_rows ? pack.rows.tokens : 0;
      }
    }
    PackMoment most;
    for (std::size_t data = 0; data < packs.size(); ++data) {
      SeenPasses<BlockRows> seen;
      for (const Pack& pack : packs[data]) {
        if (seen.add(pack.rows)) {
          raise(most, pack, pass_.data[data].blocks, waiting);
        }
      }
    }
    return most;
  }

 private:
  struct Pack {
    BlockRows rows;
    const TokenPair& first;
  };

  static std::vector<Pack> packs_of(const PackedData& data, std::int64_t tokens_of_pack) {
    const auto at = [&](std::int64_t pair) -> const TokenPair& {
      return data.pairs[static_cast<std::size_t>(pair)];
    };
    std::vector<Pack> packs;
    for (const std::vector<std::int64_t>& pack : data.packs(tokens_of_pack)) {
      std::vector<TokenPair> pairs;
      for (const std::int64_t pair : pack) {
        pairs.push_back(at(pair));
      }
      packs.push_back({rows_of_pack(pairs), at(pack.front())});
    }
    return packs;
  }

  void raise(PackMoment& most, const Pack& pack, std::int64_t blocks, double waiting) const {
    const ModelConfig& config = job_.inputs.config;
    // Its own are part of the work.
    const double others = std::max(0.0, waiting - pack.rows.tokens) *
                          static_cast<double>(config.hidden) * sizeof(float);
    const std::vector<double> work = least_block_bytes(config, job_.computation.topology.tp(),
                                                       bytes_, pack.rows, job_.computation.flash);
    for (std::size_t block = 0; block < static_cast<std::size_t>(blocks); ++block) {
      const double beside = static_cast<double>(pass_.weights[block]) + others;
      if (beside + work[block] > most.bytes()) {
        most = {beside, work[block], pack.first.where, pack.rows.tokens};
      }
    }
  }

  const JobPreparation& job_;
  const PackedPass& pass_;
  ElementBytes bytes_;
};

struct ChosenPack {
  std::int64_t tokens = 0;
  PackMoment moment;
};

// Returns the largest packs below the usual ones that take half of what is left, because only a
// part of what the work takes is counted, or where none does, the smallest that have room; nothing
// where none has.  A long pair takes more by itself.
std::optional<ChosenPack> smaller_packs(const PackRoom& room, const PackMoment& alone,
                                        double free) {
  std::optional<ChosenPack> chosen;
  for (std::int64_t tokens = kTokensPerDevicePack / 2; tokens > 0; tokens /= 2) {
    const PackMoment moment = tokens > 1 ? room.most(tokens) : alone;
    if (!moment.has_room(free)) {
      continue;
    }
    chosen = ChosenPack{tokens, moment};
    if (moment.work <= std::max((free - moment.beside) / 2, alone.work)) {
      break;
    }
  }
  return chosen;
}

}  // namespace

std::string packs_text(std::int64_t tokens) {
  return tokens == 1 ? "pairs one by one" : fmt::format("packs of {} tokens", tokens);
}

void choose_packs(JobPreparation& job, const PackedPass& pass) {
  job.device_pack = kTokensPerDevicePack;
  job.pack_bytes = 0;
  const PackRoom room(job, pass);
  const auto free = static_cast<double>(free_device_memory(job.computation.device));
  const PackMoment usual = room.most(job.device_pack);
  if (usual.has_room(free)) {
    job.pack_bytes = static_cast<std::uint64_t>(usual.work);
    return;
  }
  const char* const beside = pass.keeps_rows ? "the weights and the other pairs that are there then"
                                             : "the weights that are loaded then";
  const auto left = [&](const PackMoment& moment) {
    return gib_text(std::max(0.0, free - moment.beside));
  };
  const PackMoment alone = room.most(1);
  const std::optional<ChosenPack> chosen = smaller_packs(room, alone, free);
  if (!chosen) {
    if (!job.options.cache_dir.empty()) {
      return;  // an earlier run may have kept what the pass computes
    }
    throw UserError(fmt::format(
        "{}: {} over this pair alone, {:.0f} tokens, takes at least {} per rank, and {} of {} are "
        "free beside {}; use {}{}",
        alone.first_pair, pass.name, alone.tokens, gib_text(alone.work), left(alone),
        gib_text(free), beside,
        job.computation.product_type == c10::kBFloat16 ? "" : "--dtype bf16, ", pass.remedy));
  }
  job.device_pack = chosen->tokens;
  job.pack_bytes = static_cast<std::uint64_t>(chosen->moment.work);
  job.warnings.push_back(
      fmt::format("{} takes {}, because a pack of {} takes at least {} per rank, and {} are free "
                  "beside {}; the "
                  "last digits of activations may differ from those of a device with more memory",
                  pass.name, packs_text(job.device_pack), kTokensPerDevicePack,
                  gib_text(usual.work), left(usual), beside));
}

}  // namespace bipo
