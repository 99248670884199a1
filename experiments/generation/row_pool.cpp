#include "experiments/generation/row_pool.hpp"

#include <iterator>

#include "collectives/foundation/errors.hpp"

namespace bipo {

RowPool::RowPool(std::int64_t rows, std::int64_t regions) {
  if (rows > 0) {
    free_.emplace(0, rows);
  }
  for (std::int64_t number = 0; number < regions; ++number) {
    free_numbers_.insert(number);
  }
}

std::optional<CacheRegion> RowPool::take(std::int64_t count) {
  for (auto range = free_.begin(); range != free_.end(); ++range) {
    const auto [begin, end] = *range;
    if (end - begin < count) {
      continue;
    }
    if (free_numbers_.empty()) {
      throw BugError("more regions of a cache are wanted than it has");
    }
    free_.erase(range);
    if (begin + count < end) {
      free_.emplace(begin + count, end);
    }
    const std::int64_t number = free_numbers_.extract(free_numbers_.begin()).value();
    return CacheRegion{{begin, begin + count}, number};
  }
  return std::nullopt;
}

void RowPool::give_back(const CacheRegion& region) {
  free_numbers_.insert(region.number);
  Range rows = region.rows;
  const auto after = free_.lower_bound(rows.begin);
  if (after != free_.begin() && std::prev(after)->second == rows.begin) {
    rows.begin = std::prev(after)->first;
    free_.erase(std::prev(after));
  }
  if (after != free_.end() && after->first == rows.end) {
    rows.end = after->second;
    free_.erase(after);
  }
  free_.emplace(rows.begin, rows.end);
}

}  // namespace bipo
