// Which pairs go into which step and micro-batch, and with which sign: pure functions of
// (seed, epoch, index), the same on every rank and for any number of replicas.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bipo {

// How the direction d is drawn (design: "one d per optimiser step" is the paper's).
enum class SignRule { kBatch, kPair, kBoth, kPlus, kMinus };

// Throws UserError for an unknown name.
SignRule parse_sign_rule(const std::string& name);
std::string to_string(SignRule rule);

struct PlanSettings {
  std::int64_t pairs = 0;        // P, size of the training set
  std::int64_t batch_size = 4;   // pairs per optimiser step
  std::int64_t micro_batch = 4;  // pairs per pass through the model
  std::int64_t epochs = 20;
  std::int64_t max_steps = 0;  // 0: no limit
  std::uint64_t seed = 11;
  bool shuffle = true;
  SignRule sign = SignRule::kBatch;
  // [P] what a pair costs, so that a step's micro-batches cost about the same; empty: all the same.
  std::vector<std::int64_t> costs;
};

// One optimiser step: its pairs, dealt to micro-batches by cost.
struct StepPlan {
  std::int64_t step = 0;
  std::int32_t epoch = 0;
  bool ends_epoch = false;
  std::int64_t pairs = 0;                                // real size of this batch
  std::vector<std::vector<std::int64_t>> micro_batches;  // indices into the training set
  // The passes each micro-batch makes: for every pass one sign per pair of the batch (in batch
  // order). One pass, except for kBoth, which makes two (+1, then -1).
  std::vector<std::vector<std::int8_t>> passes;
  std::int8_t logged_sign = 0;  // d of the step; 0 where it is not one number (pair, both)
};

class BatchPlan {
 public:
  explicit BatchPlan(PlanSettings settings);  // throws UserError for sizes below 1

  const PlanSettings& settings() const { return settings_; }
  std::int64_t steps_per_epoch() const;  // the last, short batch of an epoch is kept
  std::int64_t total_steps() const;  // epochs * steps_per_epoch(), or max_steps where that is less
  StepPlan step(std::int64_t index) const;

 private:
  const std::vector<std::int64_t>& order_of(std::int32_t epoch) const;

  PlanSettings settings_;
  // Of the epoch that was asked for last: a sort per epoch, not per step.
  mutable std::int32_t ordered_epoch_ = -1;
  mutable std::vector<std::int64_t> order_;
};

// Deals items of given costs to micro-batches of the sizes that consecutive_groups() gives, each
// next costliest item to the micro-batch that costs least so far and has room; in each, items keep
// their order.  A function of the costs alone, so that replicas end together whatever their number.
std::vector<std::vector<std::int64_t>> balanced_groups(const std::vector<std::int64_t>& costs,
                                                       std::int64_t group_size);

// Consecutive groups of `group_size` out of `count` items: the fixed micro-batches of the prefix,
// reference and evaluation passes.
std::vector<std::vector<std::int64_t>> consecutive_groups(std::int64_t count,
                                                          std::int64_t group_size);

}  // namespace bipo
