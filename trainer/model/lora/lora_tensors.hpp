// The tensors of a PEFT adapter, checked against its configuration and the model.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/lora/lora_config.hpp"
#include "trainer/model/weights/safetensors.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

// Ends of the names of a module's tensors.
inline constexpr std::string_view kWeightEnd = ".weight";
inline constexpr std::string_view kBiasEnd = ".bias";

// What an adapter adds to one module; names of tensors, empty without one.
struct LoraUpdate {
  std::string a;            // [rank, in]; in an embedding's own update [rank, V]
  std::string b;            // [out, rank]; in an embedding's own update [D, rank]
  std::string magnitude;    // [out]; in an embedding's own update [D]
  std::string bias;         // [out]
  bool transposed = false;  // an embedding's own update: its matrix [V, D] gets (B A)^T
  std::int64_t rank = 0;
  double scale = 0;
};

// Updates by module, such as "model.layers.3.self_attn.q_proj"; in fused tensors several weights of
// the model are rows of one module's matrix.
using LoraUpdates = std::map<std::string, LoraUpdate>;

struct LoraTensors {
  LoraUpdates updates;
  std::vector<std::string> warnings;
};

// Reads the adapter's tensor names, and compares the base weights that PEFT saved along (of
// embedding and head if they are adapted, or with save_embedding_layers) with those of `base`.
// Throws UserError unless there are exactly the tensors that the configuration implies, in their
// shapes and floating-point types, and the base weights are the model's own up to the rounding of
// their types.  Refuses updates of an embedding that is the head too.
LoraTensors read_lora_tensors(const LoraConfig& config, const SafetensorsFile& file,
                              const ModelConfig& model, const WeightSource& base);

}  // namespace bipo
