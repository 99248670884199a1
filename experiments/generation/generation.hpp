// Generates text under steering vectors: every prompt at every setting of multipliers, in common
// passes through the model.
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
#include "trainer/passes/steered_positions.hpp"
#include "trainer/passes/steering_vectors.hpp"

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
  std::vector<TokenId> tokens;  // without the one that ended it
  double log_prob = 0;          // sum over `tokens`, under the steered model at temperature 1
  bool stopped = false;         // by a stop token; else by max_new_tokens or the model's context
};

// A prompt and its place among all prompts.
struct NumberedPrompt {
  std::int64_t number = 0;
  std::vector<TokenId> tokens;  // fewer than the model's context
};

struct GenerationHooks {
  // Called for every token as it is chosen: the prompt's place in the batch, the setting.
  std::function<void(std::int64_t prompt, std::int64_t setting, TokenId token)> on_token;
  // Asked after every step whether to stop; the same on all tp ranks.
  std::function<bool()> stops;
};

// Generates one batch, [P S], prompt by prompt; nothing where the hooks stopped it.  All of the
// model must be loaded.
//
// Each sequence's prompt goes through the model by itself (blocks up to the lowest steered one once
// for all settings), and all P S texts grow together, in products of P S rows until the last of
// them ends.  In float32 on a CPU a text is therefore the same, to the last bit, whatever the other
// texts' multipliers are (elsewhere attention is padded to the longest text that goes on); in a
// batch of another size it may differ in the last bits of its logits. Collective over: tp
std::optional<std::vector<GeneratedText>> generate_batch(const Decoder& decoder,
                                                         const SteeringVectors& vectors,
                                                         const std::vector<NumberedPrompt>& prompts,
                                                         const GenerationSettings& settings,
                                                         const GenerationHooks& hooks);

// Bytes that the keys and values of such a batch take on a rank; `prompt_tokens`: of all P prompts.
std::uint64_t generation_cache_bytes(const ModelConfig& config, const Topology& topology,
                                     std::int64_t prompts, std::int64_t prompt_tokens,
                                     const GenerationSettings& settings);

// `mine` of every replica (in the order of replicas, each of any size) on every rank.
// Collective over: dp
std::vector<GeneratedText> gather_texts(const std::vector<GeneratedText>& mine,
                                        std::int64_t max_new_tokens, at::Device device,
                                        Communicator& dp);

}  // namespace bipo
