// Reductions of one number over a group of ranks.
#pragma once

#include <cstdint>

#include "collectives/communicator.hpp"

namespace bipo {

// Of every rank's `value`; the same on all of them (a sum of doubles within the limits that
// Communicator::all_reduce() states).  Unsigned values and their sum must be below 2^63.  `group`
// must move host memory.  Collective over: group
std::int64_t all_reduced(std::int64_t value, ReduceOp op, Communicator& group);
std::uint64_t all_reduced(std::uint64_t value, ReduceOp op, Communicator& group);
double all_reduced(double value, ReduceOp op, Communicator& group);

// Whether `value` holds on every rank.  Collective over: group
bool holds_on_all(bool value, Communicator& group);

}  // namespace bipo
