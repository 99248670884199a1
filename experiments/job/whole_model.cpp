#include "experiments/job/whole_model.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace bipo {
namespace {

std::uint64_t weight_bytes(const WholeModel& model) {
  const ModelConfig& config = model.files.config;
  return Decoder::weight_bytes(config, model.computation.topology.tp(),
                               model.computation.topology.tp_rank(), model.computation.product_type,
                               model.computation.device, {0, config.blocks}, /*embedding=*/true);
}

}  // namespace

WholeModel open_whole_model(const std::filesystem::path& path, const std::filesystem::path& adapter,
                            const MachineOptions& options, const Session& session) {
  WholeModel model;
  model.files = open_model(path, adapter);
  const Topology topology = arrange_ranks(options, std::nullopt, session);
  plan_shard(model.files.config, options.tp, topology.tp_rank());
  model.computation = choose_computation(options, model.files.config, topology, session);
  require_memory("the model's weights take", weight_bytes(model),
                 memory_per_rank(model.computation.device, session.local_size()),
                 model.computation.topology.tp());
  return model;
}

std::uint64_t memory_beside_weights(const WholeModel& model, const Session& session) {
  const std::uint64_t available = memory_per_rank(model.computation.device, session.local_size());
  return available - std::min(available, weight_bytes(model));
}

void require_beside_weights(const WholeModel& model, const std::string& what, std::uint64_t bytes,
                            const Session& session) {
  require_memory(fmt::format("the model's weights and {} take", what), weight_bytes(model) + bytes,
                 memory_per_rank(model.computation.device, session.local_size()),
                 model.computation.topology.tp());
}

std::unique_ptr<Decoder> load_whole_model(const WholeModel& model, const Ranks& ranks) {
  auto decoder = std::make_unique<Decoder>(model.files.config, *model.files.weights,
                                           model.computation.product_type, model.computation.device,
                                           *ranks.tp);
  decoder->load_embedding();
  decoder->load_blocks({0, model.files.config.blocks});
  return decoder;
}

}  // namespace bipo
