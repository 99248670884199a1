// The model and what is cached of the data, ready to train vectors at the layers asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "collectives/session.hpp"
#include "launcher/progress.hpp"
#include "launcher/run_settings.hpp"
#include "launcher/training_inputs.hpp"
#include "trainer/activation_cache.hpp"
#include "trainer/model/graph.hpp"

namespace bipo {

struct PreparedModel {
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<ActivationCache> train;
  std::unique_ptr<ActivationCache> held_out;  // null where nothing is evaluated
};

// What preparing needs to know beside the inputs, which must outlive the result.
struct ModelRequest {
  std::vector<std::int64_t> layers;  // ascending
  c10::ScalarType product_type = c10::kFloat;
  c10::Device device{c10::kCPU};
  bool evaluates = true;
};

// Loads the model, fills the caches (in one pass over the data for all layers) and checks that
// training begins at the reference.  `display` is null on ranks that do not speak.
// Collective over: world
PreparedModel prepare_model(const TrainingInputs& inputs, const RunSettings& settings,
                            const ModelRequest& request, const Ranks& ranks, Session& session,
                            ProgressDisplay* display);

}  // namespace bipo
