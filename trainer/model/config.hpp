// What a model's config.json says of its architecture.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace bipo {

// Llama 3's rescaling of the rotary frequencies (rope_type "llama3").
struct Llama3RopeScaling {
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;
};

// D hidden, H query heads, Hkv key/value heads, K head size, I MLP columns, V vocabulary, N blocks.
struct ModelConfig {
  std::string architecture;
  std::int64_t hidden = 0;        // D
  std::int64_t blocks = 0;        // N
  std::int64_t heads = 0;         // H
  std::int64_t kv_heads = 0;      // Hkv, divides H
  std::int64_t head_size = 0;     // K
  std::int64_t intermediate = 0;  // I
  std::int64_t vocabulary = 0;    // V
  std::int64_t context = 0;       // longest sequence, tokens
  double norm_epsilon = 1e-6;
  double rope_theta = 10000;
  std::optional<Llama3RopeScaling> rope_scaling;
  // [K / 2], what each rotary frequency is divided by, where the files say so number by number;
  // empty: nothing.
  std::vector<float> rope_divisors;
  bool tied_head = false;  // the head is the embedding
};

// Reads directory/config.json.  Throws UserError for a missing or malformed file, an architecture
// that is not supported (naming those that are), and every field that changes the mathematics in a
// way this program does not implement: nothing of that kind is ignored.
ModelConfig read_model_config(const std::filesystem::path& directory);

// Throws UserError unless the model has the block `layer`, which --layer names.
void check_layer(std::int64_t layer, const ModelConfig& config);

}  // namespace bipo
