// A model, and what is cached of its data, ready to train vectors at the layers asked for.
#include "launcher/training/prepared_model.hpp"

#include <fmt/format.h>

#include <string>

#include "collectives/communicator.hpp"
#include "launcher/terminal/gib_text.hpp"
#include "launcher/training/cache_files.hpp"
#include "launcher/training/prefix_pass.hpp"
#include "trainer/loop/training.hpp"

namespace bipo {

std::unique_ptr<Decoder> load_decoder(const JobPreparation& job, const Ranks& ranks) {
  return std::make_unique<Decoder>(job.inputs.config, *job.inputs.weights, job.product_type,
                                   job.device, *ranks.tp);
}

bool PreparedData::keeps_activations() const {
  return train->keeps_activations() && (held_out == nullptr || held_out->keeps_activations());
}

PreparedData prepare_data(Decoder& decoder, const JobPreparation& job, const DataRequest& request,
                          const Ranks& ranks, ProgressDisplay* display) {
  const TrainingInputs& inputs = job.inputs;
  const RunSettings& settings = job.settings;
  std::uint64_t budget = all_reduced(request.budget, ReduceOp::kMin, *ranks.world);
  const auto make_cache = [&](const std::vector<TokenPair>& pairs, std::uint64_t tokens_hash,
                              const char* name) {
    CacheSettings cache;
    cache.layers = request.layers;
    cache.group_size = settings.micro_batch;
    cache.type = settings.cache_dtype == "bf16" ? at::kBFloat16 : at::kFloat;
    cache.directory = settings.options.cache_dir;
    cache.key =
        cache_key({inputs.model_fingerprint, tokens_hash, ranks.topology.tp(), settings.dtype,
                   settings.device, settings.threads.threads, settings.options.deterministic});
    const std::uint64_t bytes =
        ActivationCache::bytes_needed(inputs.config.hidden, pairs, cache.type) *
        static_cast<std::uint64_t>(request.layers.size());
    cache.keep = bytes <= budget;
    if (cache.keep) {
      budget -= bytes;
    } else if (display != nullptr) {
      display->message(fmt::format(
          "warning: the activations of the {} take {} per node, more than the cache budget "
          "leaves: blocks 0..{} run again in every step; raise --cache-budget",
          name, gib_text(static_cast<double>(bytes)), request.layers.back()));
    }
    return std::make_unique<ActivationCache>(decoder, pairs, cache, ranks);
  };
  PreparedData data;
  data.train = make_cache(inputs.train, inputs.train_hash, "training pairs");
  std::vector<ActivationCache*> caches{data.train.get()};
  if (!inputs.test.empty() && request.evaluates) {
    data.held_out = make_cache(inputs.test, inputs.test_hash, "held-out pairs");
    caches.push_back(data.held_out.get());
  }
  run_prefix_pass(decoder, caches, ranks, display);
  for (const std::int64_t layer : request.layers) {
    check_zero_vector(decoder, *data.train, layer, ranks);
  }
  if (display != nullptr) {
    display->finish();
  }
  return data;
}

}  // namespace bipo
