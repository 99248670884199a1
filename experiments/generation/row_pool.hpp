// Rows of a cache, taken in regions for parts of sequences and given back when these have ended.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// Rows side by side, with a number that no other region has that is taken at the same time.
struct CacheRegion {
  Range rows;
  std::int64_t number = 0;
};

class RowPool {
 public:
  // Regions have the numbers [0, `regions`).
  RowPool(std::int64_t rows, std::int64_t regions);

  // Returns the first `count` (at least 1) rows that are free side by side, or nothing if there are
  // not as many.  Throws BugError if all regions are taken.
  std::optional<CacheRegion> take(std::int64_t count);

  // Makes a region free that take() returned.
  void give_back(const CacheRegion& region);

 private:
  std::map<std::int64_t, std::int64_t> free_;  // begin and end of ranges, none beside another
  std::set<std::int64_t> free_numbers_;
};

// Owns a region of a pool, which must outlive it; or nothing.
class TakenRegion {
 public:
  TakenRegion() = default;
  TakenRegion(RowPool& pool, const CacheRegion& region) : pool_(&pool), region_(region) {}
  TakenRegion(TakenRegion&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), region_(other.region_) {}
  TakenRegion& operator=(TakenRegion&&) = delete;
  ~TakenRegion() {
    if (pool_ != nullptr) {
      pool_->give_back(region_);
    }
  }

  const Range& rows() const { return region_.rows; }
  std::int64_t number() const { return region_.number; }

 private:
  RowPool* pool_ = nullptr;
  CacheRegion region_;
};

}  // namespace bipo
