#include "launcher/prepared_model.hpp"

#include <fmt/format.h>

#include <string>

#include "collectives/number_reduction.hpp"
#include "launcher/cache_files.hpp"
#include "launcher/prefix_pass.hpp"
#include "trainer/training.hpp"

namespace bipo {
namespace {

constexpr double kGiB = 1 << 30;

}  // namespace

PreparedModel prepare_model(const TrainingInputs& inputs, const RunSettings& settings,
                            const ModelRequest& request, const Ranks& ranks, Session& session,
                            ProgressDisplay* display) {
  PreparedModel model;
  session.together([&] {
    model.decoder = std::make_unique<Decoder>(inputs.config, *inputs.weights, request.product_type,
                                              request.device, *ranks.tp);
  });

  std::uint64_t budget = all_reduced(settings.cache_budget, ReduceOp::kMin, *ranks.world);
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
          "warning: the activations of the {} take {:.2f} GiB per node, more than the cache budget "
          "leaves: blocks 0..{} run again in every step; raise --cache-budget",
          name, static_cast<double>(bytes) / kGiB, request.layers.back()));
    }
    return std::make_unique<ActivationCache>(*model.decoder, pairs, cache, ranks);
  };
  model.train = make_cache(inputs.train, inputs.train_hash, "training pairs");
  std::vector<ActivationCache*> caches{model.train.get()};
  if (!inputs.test.empty() && request.evaluates) {
    model.held_out = make_cache(inputs.test, inputs.test_hash, "held-out pairs");
    caches.push_back(model.held_out.get());
  }
  run_prefix_pass(*model.decoder, caches, ranks, display);
  for (const std::int64_t layer : request.layers) {
    check_zero_vector(*model.decoder, *model.train, layer, ranks);
  }
  if (display != nullptr) {
    display->finish();
  }
  return model;
}

}  // namespace bipo
