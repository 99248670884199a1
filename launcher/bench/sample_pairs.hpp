// Provides the model and the pairs for `bench` and `plan`: pairs from a file, or made-up ones of
// given lengths.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "datasets/tokens/pair_tokenizer.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/model/architecture/config.hpp"

namespace bipo {

// Reads the configuration of the model directory, the GGUF file or the shape, and checks `layer`
// against it.  Throws UserError.
ModelConfig read_chosen_config(const ModelChoice& choice, const SteeredLayers& layer);

// Reads the pairs of `file` and tokenises them as `train` does for the model in `model`, whose
// weights are not needed.  Throws UserError.
TokenizedFile read_pairs(const std::filesystem::path& file, const std::filesystem::path& model,
                         const ModelConfig& config, const TextOptions& options);

// Makes `count` pairs of pseudo-random tokens; prompts share exactly their first `common_prefix`
// tokens, answers differ from their first token on.  Throws UserError if they exceed the context.
std::vector<TokenPair> make_pairs(const PairLengths& lengths, std::int64_t count,
                                  const ModelConfig& config);

}  // namespace bipo
