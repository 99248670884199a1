#include "trainer/cost/micro_batch_memory.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

namespace bipo {
namespace {

constexpr std::int64_t kMostSteps = 100'000;

// The pairs of a micro-batch by the vector, the sign and the factor under which they are in it.
using Trees = std::map<std::tuple<std::size_t, std::int8_t, double>, std::vector<std::size_t>>;

// Adds the micro-batch of `vector` whose pairs begin with number `first` in batch order.
void add_trees(std::size_t vector, const StepPlan& step,
               const std::vector<std::int64_t>& micro_batch, std::size_t first, Trees& trees) {
  for (const std::vector<std::int8_t>& signs : step.passes) {
    for (std::size_t i = 0; i < micro_batch.size(); ++i) {
      trees[{vector, signs[first + i], step.factors[first + i]}].push_back(
          static_cast<std::size_t>(micro_batch[i]));
    }
  }
}

std::size_t longer_answer(const TokenPair& pair) {
  return std::max(pair.chosen.size(), pair.rejected.size());
}

// What makes a micro-batch large, without its model: its rows, and its rows where all of its parts
// are padded to the longest.
struct Extent {
  std::size_t rows = 0;
  std::size_t padded = 0;
};

Extent extent_of(const Trees& trees, const std::vector<TokenPair>& pairs) {
  Extent extent;
  std::size_t places = 0;
  std::size_t longest = 0;
  for (const auto& [steering, members] : trees) {
    for (const std::size_t index : members) {
      const TokenPair& pair = pairs[index];
      extent.rows += pair.prompt.size() + pair.chosen.size() + pair.rejected.size();
      longest = std::max(longest, pair.prompt.size() + longer_answer(pair));
    }
    places += members.size();
  }
  extent.padded = places * longest;
  return extent;
}

// Returns the bytes of all trees, packed together.
double bytes_of(const ModelConfig& config, RunShape run, const Trees& trees,
                const std::vector<TokenPair>& pairs) {
  std::vector<TokenPair> all;
  double shared = 0;  // tokens that are not there again
  for (const auto& [steering, members] : trees) {
    std::vector<TokenPair> of_tree;
    for (const std::size_t index : members) {
      of_tree.push_back(pairs[index]);
    }
    shared += static_cast<double>(members.size() - 1) * mean_pair(of_tree).shared;
    std::move(of_tree.begin(), of_tree.end(), std::back_inserter(all));
  }
  run.pair = mean_pair(all);
  run.micro_pairs = static_cast<double>(all.size());
  run.ways = static_cast<double>(trees.size());
  run.pair.shared = shared / std::max(1.0, run.micro_pairs - run.ways);
  return rank_memory(config, run).activations;
}

// Takes the steps of a plan in order.
class Steps {
 public:
  explicit Steps(const BatchPlan& plan) : plan_(plan) {}

  StepPlan at(std::int64_t index) {
    if (plan_.epoch_of(index) != epoch_) {
      epoch_ = plan_.epoch_of(index);
      order_ = plan_.order(epoch_);
    }
    return plan_.step(index, order_);
  }

 private:
  const BatchPlan& plan_;
  std::int32_t epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace

double largest_micro_batch_bytes(const ModelConfig& config, const RunShape& run,
                                 const std::vector<TokenPair>& pairs,
                                 const std::vector<BatchPlan>& plans) {
  const std::int64_t count =
      std::min(plans.front().total_steps(), 1 + kMostSteps / std::ssize(plans));
  std::vector<Steps> plans_steps(plans.begin(), plans.end());
  double most = 0;
  Extent largest;
  std::vector<StepPlan> steps(plans.size());
  for (std::int64_t index = 0; index < count; ++index) {
    for (std::size_t vector = 0; vector < plans.size(); ++vector) {
      steps[vector] = plans_steps[vector].at(index);
    }
    std::size_t first = 0;
    for (std::size_t m = 0; m < steps.front().micro_batches.size(); ++m) {
      Trees trees;
      for (std::size_t vector = 0; vector < plans.size(); ++vector) {
        add_trees(vector, steps[vector], steps[vector].micro_batches[m], first, trees);
      }
      first += steps.front().micro_batches[m].size();
      const Extent extent = extent_of(trees, pairs);
      // Whatever takes most is the largest so far in one of the two ways, or next to it.
      if (extent.rows > largest.rows || extent.padded > largest.padded) {
        most = std::max(most, bytes_of(config, run, trees, pairs));
        largest = {std::max(largest.rows, extent.rows), std::max(largest.padded, extent.padded)};
      }
    }
  }
  return most;
}

}  // namespace bipo
