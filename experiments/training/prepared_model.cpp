#include "experiments/training/prepared_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <system_error>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/version.hpp"
#include "experiments/training/pack_room.hpp"
#include "experiments/training/prefix_room.hpp"
#include "trainer/cache/activation_file.hpp"
#include "trainer/cache/temporary_files.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {
namespace {

// Says which activations need no pass.
void tell_kept(const PreparedData& data, const std::filesystem::path& directory,
               ProgressDisplay& display) {
  std::vector<std::string> kept;
  if (data.train->is_filled()) {
    kept.emplace_back("training");
  }
  if (data.held_out && data.held_out->is_filled()) {
    kept.emplace_back("held-out");
  }
  if (!kept.empty()) {
    display.message(fmt::format("read from {}: activations of the {} pairs", directory.string(),
                                fmt::join(kept, " and ")));
  }
}

}  // namespace

std::unique_ptr<Decoder> load_decoder(const JobPreparation& job, const Ranks& ranks) {
  return std::make_unique<Decoder>(job.inputs.config, *job.inputs.weights,
                                   job.computation.product_type, job.computation.device, *ranks.tp);
}

bool PreparedData::keeps_activations() const {
  return train->keeps_activations() && (held_out == nullptr || held_out->keeps_activations());
}

ActivationPlace cache_place(CacheDevice cache_device) {
  return cache_device == CacheDevice::kAuto   ? ActivationPlace::kAuto
         : cache_device == CacheDevice::kHost ? ActivationPlace::kHost
                                              : ActivationPlace::kDevice;
}

void run_prefix_pass(Decoder& decoder, const std::vector<ActivationCache*>& caches,
                     const Ranks& ranks, ProgressDisplay& display) {
  fill_caches(decoder, caches, ranks,
              [&](const std::string& what, std::int64_t done, std::int64_t total) {
                display.phase(what, done, total);
              });
  // Not earlier: memory that the pass itself frees, mostly prefix weights, must return to the
  // machine.
  keep_freed_memory();
}

// Where one replica fills micro-batches up and another does not, for want of memory, last bits
// would depend on which of them computes a pair.  Collective over: world
void agree_on_graphs(const Ranks& ranks, ProgressDisplay& display) {
  const bool agreed =
      all_reduced(std::int64_t{records_graphs()}, ReduceOp::kMin, *ranks.world) == 1;
  if (records_graphs() && !agreed) {
    choose_graphs(false);
    display.warn(
        "CUDA graphs: none on any rank, because another one's device has no room for them");
  }
}

std::int64_t agreed_pack(const std::string& pass, std::int64_t mine, const Ranks& ranks,
                         ProgressDisplay& display) {
  const std::int64_t agreed = all_reduced(mine, ReduceOp::kMin, *ranks.world);
  if (agreed < mine) {
    display.warn(
        fmt::format("{} takes {}, because another rank's device has no room for larger packs; the "
                    "last digits of activations may differ from those of devices with more memory",
                    pass, packs_text(agreed)));
  }
  return agreed;
}

PreparedData prepare_data(Decoder& decoder, const JobPreparation& job, const DataRequest& request,
                          const Ranks& ranks, ProgressDisplay& display) {
  const EndAtOnce nothing_to_save(remove_temporary_files);
  const TrainingInputs& inputs = job.inputs;
  const TrainOptions& options = job.options;
  std::int64_t device_pack = job.device_pack;
  if (!decoder.device().is_cpu()) {
    agree_on_graphs(ranks, display);
    device_pack = agreed_pack(kPrefixPass, job.device_pack, ranks, display);
  }
  std::uint64_t budget = all_reduced(request.budget, ReduceOp::kMin, *ranks.world);
  const auto make_cache = [&](const std::vector<TokenPair>& pairs, std::uint64_t tokens_hash,
                              const char* name, bool reference) {
    CacheSettings cache;
    cache.layers = request.layers;
    cache.site = options.site;
    cache.reference = reference;
    cache.group_size = options.micro_batch.value();
    cache.type = cache_type(options.cache_dtype);
    cache.place = cache_place(options.cache_device);
    cache.work_bytes = job.work_bytes;
    cache.device_pack = device_pack;
    cache.pack_bytes = job.pack_bytes;
    cache.directory = options.cache_dir;
    cache.trusts_others = options.cache_shared;
    cache.warn = [&display](const std::string& text) { display.warn(text); };
    cache.key = cache_key({inputs.model_fingerprint, inputs.weights_hash, tokens_hash,
                           job.computation, options.deterministic, ranks.topology.tp()});
    cache.keep = keeps_activations(job, pairs, request.layers.size(), budget);
    if (!cache.keep) {
      const std::uint64_t bytes = activation_bytes(job, pairs) * request.layers.size();
      display.warn(
          fmt::format("the activations of the {} take {} per node, more than the cache budget "
                      "leaves: every step runs {} again; raise --cache-budget",
                      name, gib_text(static_cast<double>(bytes)),
                      prefix_text(SteeredLayers(request.layers.back()).at(options.site))));
    }
    return std::make_unique<ActivationCache>(decoder, pairs, cache, ranks);
  };
  PreparedData data;
  data.train = make_cache(inputs.train, inputs.train_hash, "training pairs", request.reference);
  std::vector<ActivationCache*> caches{data.train.get()};
  if (!inputs.test.empty() && request.evaluates) {
    data.held_out = make_cache(inputs.test, inputs.test_hash, "held-out pairs", /*reference=*/true);
    caches.push_back(data.held_out.get());
  }
  tell_kept(data, options.cache_dir, display);
  run_prefix_pass(decoder, caches, ranks, display);
  if (const ActivationCache* checked = request.reference ? data.train.get() : data.held_out.get()) {
    for (const std::int64_t layer : request.layers) {
      check_zero_vector(decoder, *checked, layer, ranks);
    }
  }
  display.finish();
  return data;
}

void prepare_cache_directory(const std::filesystem::path& directory, bool trusts_others) {
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (!std::filesystem::is_directory(directory)) {
    throw UserError(fmt::format("--cache-dir {}: not a directory, and cannot be made: {}",
                                directory.string(), error.message()));
  }
  const std::filesystem::path foreign = trusts_others ? "" : foreign_store(directory);
  if (!foreign.empty()) {
    throw UserError(
        fmt::format("--cache-dir {}: {} belongs to another user, who could have written anything "
                    "into it; name a directory of your own, or say --cache-shared to trust it",
                    directory.string(), foreign.filename().string()));
  }
  remove_abandoned_stores(directory);
}

std::uint64_t cache_key(const CacheOrigin& origin) {
  ContentHash key;
  key.add(fmt::format("{:016x} {:016x} {:016x} tp {} {} {} threads {} deterministic {} {} {}",
                      origin.model_fingerprint, origin.weights_hash, origin.tokens_hash, origin.tp,
                      name_of(origin.computation.dtype), name_of(origin.computation.kind),
                      origin.computation.threads.threads, origin.deterministic, kProgramVersion,
                      kGitCommit));
  if (!origin.computation.kernels.empty()) {
    key.add(origin.computation.kernels);
  }
  return key.value();
}

}  // namespace bipo
