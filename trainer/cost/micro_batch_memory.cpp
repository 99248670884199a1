#include "trainer/cost/micro_batch_memory.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

namespace bipo {
namespace {

constexpr std::int64_t kMostSteps = 100'000;

// The pairs of a micro-batch by the sign and the factor under which they are in it.
using Trees = std::map<std::pair<std::int8_t, double>, std::vector<std::size_t>>;

// `first`: of the micro-batch's pairs, in batch order.
Trees trees_of(const StepPlan& step, const std::vector<std::int64_t>& micro_batch,
               std::size_t first) {
  Trees trees;
  for (const std::vector<std::int8_t>& signs : step.passes) {
    for (std::size_t i = 0; i < micro_batch.size(); ++i) {
      trees[{signs[first + i], step.factors[first + i]}].push_back(
          static_cast<std::size_t>(micro_batch[i]));
    }
  }
  return trees;
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

// Every tree's, as if it were alone, but for parts that are padded to the longest of all.
double bytes_of(const ModelConfig& config, RunShape run, const Trees& trees,
                const std::vector<TokenPair>& pairs) {
  double longest_prompt = 0;
  double longest_answer = 0;
  for (const auto& [steering, members] : trees) {
    for (const std::size_t index : members) {
      longest_prompt = std::max(longest_prompt, static_cast<double>(pairs[index].prompt.size()));
      longest_answer = std::max(longest_answer, static_cast<double>(longer_answer(pairs[index])));
    }
  }
  double bytes = 0;
  for (const auto& [steering, members] : trees) {
    std::vector<TokenPair> of_tree;
    for (const std::size_t index : members) {
      of_tree.push_back(pairs[index]);
    }
    run.pair = mean_pair(of_tree);
    run.pair.longest_prompt = longest_prompt;
    run.pair.longest_answer = longest_answer;
    run.micro_pairs = static_cast<double>(members.size());
    bytes += rank_memory(config, run).activations;
  }
  return bytes;
}

}  // namespace

double largest_micro_batch_bytes(const ModelConfig& config, RunShape run,
                                 const std::vector<TokenPair>& pairs, const BatchPlan& plan) {
  const std::int64_t steps = std::min(plan.total_steps(), kMostSteps);
  double most = 0;
  Extent largest;
  std::int32_t epoch = -1;
  std::vector<std::int64_t> order;
  for (std::int64_t index = 0; index < steps; ++index) {
    if (plan.epoch_of(index) != epoch) {
      epoch = plan.epoch_of(index);
      order = plan.order(epoch);
    }
    const StepPlan step = plan.step(index, order);
    std::size_t first = 0;
    for (const std::vector<std::int64_t>& micro_batch : step.micro_batches) {
      const Trees trees = trees_of(step, micro_batch, first);
      first += micro_batch.size();
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
