// What vectors change where nothing should change: KL(p_0 || p_m) over the positions of prompts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokenizer/token_id.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo {

struct PromptTokens {
  std::vector<TokenId> ids;  // never empty
  std::string where;
};

struct PromptDivergence {
  double sum = 0;  // nats, over the positions
  std::int64_t positions = 0;
};

// Of each setting [S][M] and each prompt: KL of the model's own next-token distribution from the
// one steered at all positions, summed over the positions.  `group_size` consecutive prompts share
// a batch; groups are dealt to replicas in turn.  The same on every rank and for any number of
// replicas; the model must be loaded whole.  Throws AgreedFailure (1) where a value is not finite.
// Collective over: dp x tp
std::vector<std::vector<PromptDivergence>> prompt_divergences(
    const Decoder& decoder, const std::vector<PromptTokens>& prompts, std::int64_t group_size,
    const SteeringVectors& vectors, const std::vector<std::vector<double>>& settings,
    const Ranks& ranks, const Progress& progress);

}  // namespace bipo
