#include "experiments/training/prefix_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/cost/forward_memory.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/packing.hpp"

namespace bipo {
namespace {

// What the device certainly holds while a pack is in a block.
struct PackMoment {
  double weights = 0;
  double work = 0;
  std::string first_pair;  // of the pack
  double tokens = 0;       // of the pack

  double bytes() const { return weights + work; }
};

class PrefixRoom {
 public:
  PrefixRoom(const JobPreparation& job, const DataRequest& request)
      : job_(job), bytes_(element_bytes(job.computation)) {
    const std::int64_t before =
        SteeredPlace{request.layers.front(), job.options.site}.blocks_before();
    // The last block computes fewer rows.
    const std::int64_t before_last = std::max(before, job.inputs.config.blocks - 1);
    std::uint64_t budget =
        job.options.cache_budget.value_or(std::numeric_limits<std::uint64_t>::max());
    const std::size_t layers = request.layers.size();
    add(job.inputs.train, request.reference ? before_last : before, layers, budget);
    if (request.evaluates) {
      add(job.inputs.test, before_last, layers, budget);
    }
    for (std::int64_t block = 0; block < before_last; ++block) {
      // Blocks before the layer's are there by themselves, those behind it stay.
      weights_.push_back(weights({std::min(block, before), block + 1}));
    }
  }

  // Returns the moment that takes most with packs of so many tokens.
  PackMoment most(std::int64_t tokens_of_pack) const {
    PackMoment most;
    for (const Data& data : data_) {
      BlockRows seen;
      for (const std::vector<std::int64_t>& pack :
           device_packs(data.tokens, data.is_kept ? tokens_of_pack : 1)) {
        const std::vector<TokenPair> pairs = pairs_of(data, pack);
        const BlockRows rows = rows_of_pack(pairs);
        if (rows.are_within(seen)) {
          continue;
        }
        seen.raise_to(rows);
        const std::vector<double> work =
            least_block_bytes(job_.inputs.config, job_.computation.topology.tp(), bytes_, rows,
                              job_.computation.flash);
        for (std::size_t block = 0; block < static_cast<std::size_t>(data.blocks); ++block) {
          if (weights_[block] + work[block] > most.bytes()) {
            most = {weights_[block], work[block], pairs.front().where, rows.tokens};
          }
        }
      }
    }
    return most;
  }

 private:
  struct Data {
    const std::vector<TokenPair>& pairs;
    std::vector<std::int64_t> tokens;  // of each pair
    std::int64_t blocks = 0;           // through which all rows of a pack go
    bool is_kept = false;              // and packed; else pairs go one by one
  };

  // `budget`: see keeps_activations().
  void add(const std::vector<TokenPair>& pairs, std::int64_t blocks, std::size_t layers,
           std::uint64_t& budget) {
    const bool is_kept = keeps_activations(job_, pairs, layers, budget);
    data_.push_back({pairs, packed_sizes(pairs), blocks, is_kept});
  }

  double weights(Range blocks) const {
    const Computation& computation = job_.computation;
    return static_cast<double>(Decoder::weight_bytes(
        job_.inputs.config, computation.topology.tp(), computation.topology.tp_rank(),
        computation.product_type, computation.device, blocks, /*embedding=*/true));
  }

  static std::vector<TokenPair> pairs_of(const Data& data, const std::vector<std::int64_t>& pack) {
    std::vector<TokenPair> pairs;
    for (const std::int64_t pair : pack) {
      pairs.push_back(data.pairs[static_cast<std::size_t>(pair)]);
    }
    return pairs;
  }

  const JobPreparation& job_;
  ElementBytes bytes_;
  std::vector<Data> data_;
  std::vector<double> weights_;  // while each block runs
};

}  // namespace

void choose_prefix_packs(JobPreparation& job, const DataRequest& request) {
  job.device_pack = kTokensPerDevicePack;
  if (job.computation.device.is_cpu()) {
    return;
  }
  const PrefixRoom room(job, request);
  const auto free = static_cast<double>(free_device_memory(job.computation.device));
  PackMoment moment = room.most(job.device_pack);
  if (moment.bytes() > free) {
    const double wanted = moment.work;
    const double left = free - moment.weights;
    const PackMoment alone = room.most(1);
    if (alone.bytes() > free) {
      if (!job.options.cache_dir.empty()) {
        return;  // an earlier run may have kept what the pass computes
      }
      throw UserError(fmt::format(
          "{}: the prefix pass over this pair alone, {:.0f} tokens, takes at least {} per rank, "
          "and {} of {} are free beside the weights that are loaded then; use {}shorter pairs "
          "(--max-length), a later --layer or a larger --tp",
          alone.first_pair, alone.tokens, gib_text(alone.work),
          gib_text(std::max(0.0, free - alone.weights)), gib_text(free),
          job.computation.product_type == c10::kBFloat16 ? "" : "--dtype bf16, "));
    }
    // Half of what is left, because only a part of what the work takes is counted; a long pair
    // takes more by itself.
    do {
      job.device_pack /= 2;
      moment = room.most(job.device_pack);
    } while (
        job.device_pack > 1 &&
        (moment.bytes() > free || moment.work > std::max((free - moment.weights) / 2, alone.work)));
    job.warnings.push_back(fmt::format(
        "the prefix pass takes packs of {} tokens, because one of {} takes at least {} per rank, "
        "and {} are free beside the weights; the last digits of activations may differ from those "
        "of a device with more memory",
        job.device_pack, kTokensPerDevicePack, gib_text(wanted), gib_text(std::max(0.0, left))));
  }
  job.pack_bytes = static_cast<std::uint64_t>(moment.work);
}

}  // namespace bipo
