// Generates text under steering vectors: every prompt at every setting of multipliers, all in the
// same passes through the model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/topology.hpp"
#include "datasets/tokenizer/token_id.hpp"
#include "experiments/generation/token_sampling.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// P prompts, S settings, M vectors.

struct GenerationSettings {
  std::vector<std::vector<double>> multipliers;  // [S][M]
  SteeredPositions positions = SteeredPositions::kAll;
  std::int64_t max_new_tokens = 200;
  std::vector<TokenId> stop_tokens;  // each ends a text
  SamplingSettings sampling;
};

struct GeneratedText {
  std::vector<TokenId> tokens;  // without the stop token
  double log_prob = 0;          // sum over `tokens`, under the steered model at temperature 1
  bool stopped = false;         // by a stop token; else by max_new_tokens or the model's context
};

// A prompt with its index among all prompts.
struct NumberedPrompt {
  std::int64_t number = 0;
  std::vector<TokenId> tokens;  // fewer than the model's context
};

struct GenerationHooks {
  // Called for every chosen token with the prompt's index in the batch and the setting.
  std::function<void(std::int64_t prompt, std::int64_t setting, TokenId token)> on_token;
  // Polled after every step; must return the same on all tp ranks.
  std::function<bool()> stops;
};

// Generates one batch, [P S], prompt by prompt; returns nothing if the hooks stopped it.  The model
// must be loaded whole.
//
// Each prompt goes through the model by itself (blocks up to the lowest steered one once for all
// settings); then all P S texts grow together, in products of P S rows until the last of them ends.
// In float32 on a CPU a text therefore has the same bits for any multipliers of the other texts
// (otherwise attention is padded to the longest text that still grows); in a batch of another size
// the last bits of its logits may differ.  Collective over: tp
std::optional<std::vector<GeneratedText>> generate_batch(const Decoder& decoder,
                                                         const SteeringVectors& vectors,
                                                         const std::vector<NumberedPrompt>& prompts,
                                                         const GenerationSettings& settings,
                                                         const GenerationHooks& hooks);

// Returns the bytes of a batch's keys and values on a rank; `prompt_tokens`: of all P prompts.
std::uint64_t generation_cache_bytes(const ModelConfig& config, const Topology& topology,
                                     std::int64_t prompts, std::int64_t prompt_tokens,
                                     const GenerationSettings& settings);

// Returns the texts of all replicas, in their order, on every rank; replicas may hold different
// numbers of texts.  Collective over: dp
std::vector<GeneratedText> gather_texts(const std::vector<GeneratedText>& mine,
                                        std::int64_t max_new_tokens, at::Device device,
                                        Communicator& dp);

}  // namespace bipo
