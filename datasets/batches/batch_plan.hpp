// Which pairs go into which step and micro-batch, and with which sign: pure functions of
// (seed, epoch, index), the same on every rank and for any number of replicas.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bipo {

// How the direction d is drawn: once per step (as in the paper), once per pair, in both directions,
// or never (always +1 or -1).
enum class SignRule { kBatch, kPair, kBoth, kPlus, kMinus };

// Names of the rules in the order of SignRule: batch, pair, both, plus, minus.
const std::vector<std::string>& sign_names();

SignRule parse_sign_rule(const std::string& name);  // throws UserError for an unknown name
const std::string& to_string(SignRule rule);

struct PlanSettings {
  std::int64_t pairs = 0;        // P, size of the training set
  std::int64_t batch_size = 4;   // pairs per optimiser step
  std::int64_t micro_batch = 4;  // pairs per pass through the model
  std::int64_t epochs = 20;
  std::int64_t max_steps = 0;  // 0: no limit
  std::uint64_t seed = 11;
  bool shuffle = true;
  SignRule sign = SignRule::kBatch;
  // Each pair draws one in every epoch, by which the vector is multiplied for it; at least one.
  std::vector<double> factors = {1};
  // [P] costs of the pairs, so that a step's micro-batches cost about the same; empty: all the
  // same.
  std::vector<std::int64_t> costs;
};

// One optimiser step; its pairs are dealt to micro-batches by cost.
struct StepPlan {
  std::int64_t step = 0;
  std::int32_t epoch = 0;
  bool ends_epoch = false;
  std::int64_t pairs = 0;                                // real size of this batch
  std::vector<std::vector<std::int64_t>> micro_batches;  // indices into the training set
  // Every micro-batch makes these passes; each has one sign per pair of the batch, in batch order.
  // One pass, except for kBoth, which makes two (+1, then -1).
  std::vector<std::vector<std::int8_t>> passes;
  std::vector<double> factors;  // of the pairs, in batch order, in every pass
  std::int8_t logged_sign = 0;  // d of the step; 0 where the step has several (pair, both)
};

class BatchPlan {
 public:
  explicit BatchPlan(PlanSettings settings);  // throws UserError for sizes below 1

  const PlanSettings& settings() const { return settings_; }
  std::int64_t steps_per_epoch() const;  // the last, short batch of an epoch is kept
  std::int64_t total_steps() const;  // epochs * steps_per_epoch(), or max_steps where that is less
  std::int32_t epoch_of(std::int64_t step) const;

  // [P] the pairs in the order in which an epoch takes them.  Sorts them: O(P log P).
  std::vector<std::int64_t> order(std::int32_t epoch) const;

  // `order`: order(epoch_of(index)), which a caller of many steps keeps for an epoch.  Throws
  // BugError for a step that the plan does not have.
  StepPlan step(std::int64_t index, const std::vector<std::int64_t>& order) const;
  StepPlan step(std::int64_t index) const { return step(index, order(epoch_of(index))); }

 private:
  PlanSettings settings_;
};

// Deals items of given costs to micro-batches of the sizes of consecutive_groups(): the costliest
// item left goes to the cheapest micro-batch with room; each micro-batch keeps the items' order.  A
// function of the costs alone, so that replicas end together whatever their number.
std::vector<std::vector<std::int64_t>> balanced_groups(const std::vector<std::int64_t>& costs,
                                                       std::int64_t group_size);

// Cuts `count` items into consecutive groups of `group_size`, the last one shorter: the fixed
// micro-batches of the prefix, reference and evaluation passes.
std::vector<std::vector<std::int64_t>> consecutive_groups(std::int64_t count,
                                                          std::int64_t group_size);

}  // namespace bipo
