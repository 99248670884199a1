#include "experiments/generation/token_sampling.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"

namespace bipo {
namespace {

struct Candidate {
  TokenId token;
  float logit;
};

bool is_likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// Returns a number in [0, 1) with 53 random bits.
double uniform(std::uint64_t seed, DrawPlace place) {
  constexpr std::uint32_t kGeneration =
      0x67656e;  // separates these numbers from a seed's other uses
  const auto bits =
      philox4x32({place.prompt, place.setting, place.step, kGeneration},
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const std::uint64_t joined = (std::uint64_t{bits[0]} << 32 | bits[1]) >> 11;
  return static_cast<double>(joined) * 0x1p-53;
}

TokenId likeliest(std::span<const float> logits) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  return static_cast<TokenId>(largest - logits.begin());
}

// Returns the likeliest `count` tokens in any order; all of them where `count` is 0.
std::vector<Candidate> candidates(std::span<const float> logits, std::int64_t count) {
  std::vector<Candidate> all(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    all[i] = {static_cast<TokenId>(i), logits[i]};
  }
  if (count > 0 && count < static_cast<std::int64_t>(all.size())) {
    std::nth_element(all.begin(), all.begin() + count, all.end(), is_likelier);
    all.resize(static_cast<std::size_t>(count));
  }
  return all;
}

}  // namespace

void penalise_repetition(std::span<float> logits, std::span<const TokenId> prompt,
                         std::span<const TokenId> text, double penalty) {
  const auto factor = static_cast<float>(penalty);
  std::unordered_set<TokenId> done;
  for (const std::span<const TokenId> part : {prompt, text}) {
    for (const TokenId token : part) {
      const bool is_known = token >= 0 && static_cast<std::size_t>(token) < logits.size();
      if (is_known && done.insert(token).second) {
        float& logit = logits[static_cast<std::size_t>(token)];
        logit = logit < 0 ? logit * factor : logit / factor;
      }
    }
  }
}

TokenId sample_token(std::span<const float> logits, const SamplingSettings& settings,
                     DrawPlace place) {
  const auto is_out_of_range = [](float value) { return !(value < INFINITY); };
  if (std::any_of(logits.begin(), logits.end(), is_out_of_range)) {
    throw EnvironmentError(
        "the model yields logits that are infinite or no numbers; use a smaller multiplier, or "
        "look "
        "for damage in the weights (`bipo-dist train --check-weights`)");
  }
  if (settings.temperature == 0) {
    return likeliest(logits);
  }
  std::vector<Candidate> kept = candidates(logits, settings.top_k);
  std::sort(kept.begin(), kept.end(), is_likelier);
  std::vector<double> weights;
  for (const Candidate& candidate : kept) {
    weights.push_back(
        std::exp((double{candidate.logit} - kept.front().logit) / settings.temperature));
  }
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double mass = 0;
  std::size_t count = 0;
  while (count < weights.size() && (count == 0 || mass < settings.top_p * all)) {
    mass += weights[count++];
  }
  double rest = uniform(settings.seed, place) * mass;
  for (std::size_t i = 0; i < count; ++i) {
    rest -= weights[i];
    if (rest < 0) {
      return kept[i].token;
    }
  }
  return kept[count - 1].token;
}

}  // namespace bipo
