// Scoring a data set in groups: replicas deal the groups and exchange what they found.
#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

#include "collectives/session.hpp"
#include "trainer/model/decoder/decoder.hpp"

namespace bipo {

// Called with groups done and their number.
using Progress = std::function<void(std::int64_t done, std::int64_t total)>;

// What every pass that scores a data set needs.
struct ScoringContext {
  const Decoder& decoder;
  const Ranks& ranks;
  std::int64_t group_size = 1;  // consecutive items that share a packed batch
  Progress progress;            // may be empty
};

// Calls `visit` with this replica's groups of `items` indices; groups are dealt to replicas in
// turn.
void for_each_group(const ScoringContext& context, std::int64_t items,
                    const std::function<void(const std::vector<std::int64_t>& group)>& visit);

// Exchanges at least one value: each is filled by one replica and 0 on the others; afterwards every
// rank holds all of them, to the bit.  `device`: the model's.  Collective over: dp x tp
void share_values(double* values, std::int64_t count, at::Device device, const Ranks& ranks);

// The same for rows that consist of doubles.  Collective over: dp x tp
template <typename Row>
void share_rows(std::vector<Row>& rows, at::Device device, const Ranks& ranks) {
  static_assert(std::is_trivially_copyable_v<Row> && sizeof(Row) % sizeof(double) == 0);
  share_values(reinterpret_cast<double*>(rows.data()),
               static_cast<std::int64_t>(rows.size() * sizeof(Row) / sizeof(double)), device,
               ranks);
}

}  // namespace bipo
