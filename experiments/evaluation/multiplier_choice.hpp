// Chooses multipliers on some of the held-out pairs and measures them on the others: the best of
// several looks better than it is on the pairs that chose it.  Local: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "experiments/evaluation/evaluation_tables.hpp"

namespace bipo {

// Draws the pairs that choose: `share` of them, rounded, but at least one, and at least one is left
// over.  A function of its arguments: the pairs with the smallest counter-based random numbers.
// Throws UserError below two pairs.
std::vector<bool> draw_choosing_pairs(std::size_t pairs, double share, std::uint64_t seed);

// Adds to the table `chosen` what each aim chooses among the multipliers of its sign: the one with
// the largest change of propensity from `reference` [P] over the pairs in `chooses` [P], the
// smaller one of equals, and what it changes over the others.
void add_chosen(Evaluation& evaluation, const DirectionScores& scores,
                const std::vector<PairLogProbs>& reference, const std::vector<bool>& chooses,
                std::uint64_t seed);

}  // namespace bipo
