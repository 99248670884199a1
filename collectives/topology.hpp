// How the ranks of a job are arranged: world = cells in flight x dp x tp.
#pragma once

#include <optional>
#include <string>

namespace bipo {

// A validated arrangement and one rank's place in it.  The ranks of a replica (a tensor-parallel
// group) are contiguous, so that it lies on one node; equal positions of a cell's replicas form a
// dp group.
class Topology {
 public:
  // One rank by itself.
  Topology() = default;

  // dp defaults to world / (cells * tp).  Throws UserError, with the whole equation, unless
  // world = cells x dp x tp with every factor at least 1.
  Topology(int world, int rank, int tp, std::optional<int> dp, int cells = 1);

  int world() const { return world_; }
  int rank() const { return rank_; }
  int cells() const { return cells_; }
  int dp() const { return dp_; }
  int tp() const { return tp_; }

  int tp_rank() const { return rank_ % tp_; }
  int dp_rank() const { return rank_ / tp_ % dp_; }
  int cell() const { return rank_ / (tp_ * dp_); }

  // Ranks with equal colours form a group, in the order of their world ranks.
  int tp_color() const { return rank_ / tp_; }
  int dp_color() const { return cell() * tp_ + tp_rank(); }

  std::string to_string() const;  // "8 ranks = 1 cell x 4 dp x 2 tp"

 private:
  int world_ = 1;
  int rank_ = 0;
  int cells_ = 1;
  int dp_ = 1;
  int tp_ = 1;
};

}  // namespace bipo
