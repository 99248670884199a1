// The record that every run begins with.
#include "trainer/records/records.hpp"

#include <cstddef>

namespace bipo {

TrainingRecord starting_record(std::int64_t hidden, std::uint64_t seed) {
  TrainingRecord record;
  const auto size = static_cast<std::size_t>(hidden);
  record.checkpoint.vector.assign(size, 0.0F);
  record.checkpoint.exp_avg.assign(size, 0.0F);
  record.checkpoint.exp_avg_sq.assign(size, 0.0F);
  record.checkpoint.seed = seed;
  return record;
}

}  // namespace bipo
