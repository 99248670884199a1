#include "launcher/job/whole_model.hpp"

#include <ATen/Parallel.h>
#include <algorithm>

namespace bipo {
namespace {

std::uint64_t weight_bytes(const WholeModel& model) {
  const ModelConfig& config = model.files.config;
  return Decoder::weight_bytes(config, model.topology->tp(), model.topology->tp_rank(),
                               model.computation.product_type, model.computation.device,
                               config.blocks, /*embedding=*/true);
}

}  // namespace

WholeModel open_whole_model(const std::filesystem::path& path, const std::filesystem::path& adapter,
                            const MachineOptions& options, const Session& session) {
  WholeModel model;
  model.files = open_model(path, adapter);
  model.topology.emplace(arrange_ranks(options, std::nullopt, session));
  plan_shard(model.files.config, options.tp, model.topology->tp_rank());
  model.computation = choose_computation(options, *model.topology, session);
  model.threads = choose_threads(options.threads, session.local_size(), session.node_cores());
  require_memory("the model's weights take", weight_bytes(model),
                 memory_per_rank(model.computation.device, session.local_size()),
                 model.topology->tp());
  return model;
}

std::uint64_t memory_beside_weights(const WholeModel& model, const Session& session) {
  const std::uint64_t available = memory_per_rank(model.computation.device, session.local_size());
  return available - std::min(available, weight_bytes(model));
}

std::unique_ptr<Decoder> load_whole_model(const WholeModel& model, const Ranks& ranks) {
  at::set_num_threads(static_cast<int>(model.threads.threads));
  auto decoder = std::make_unique<Decoder>(model.files.config, *model.files.weights,
                                           model.computation.product_type, model.computation.device,
                                           *ranks.tp);
  decoder->load_embedding();
  decoder->load_blocks({0, model.files.config.blocks});
  return decoder;
}

}  // namespace bipo
