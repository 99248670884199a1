#include "trainer/packing.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

std::size_t common_prefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b,
                          std::size_t most) {
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(std::min({most, a.size(), b.size()}));
  return static_cast<std::size_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

class Packer {
 public:
  explicit Packer(const std::vector<TokenPair>& pairs) : pairs_(pairs) {}

  // Items (by their place in the batch) that are steered alike.
  void add_tree(const std::vector<PackItem>& items, const std::vector<std::size_t>& members) {
    steering_ = items[members.front()].steering;
    const TokenPair& first = pair_of(items[members.front()]);
    std::size_t shared = first.prompt.size();
    for (const std::size_t member : members) {
      shared = common_prefix(first.prompt, pair_of(items[member]).prompt, shared);
    }
    pair_ = items[members.front()].pair;
    const Range root = append(first.prompt, 0, shared, 0, 0, {});
    for (const std::size_t member : members) {
      pair_ = items[member].pair;
      add_pair(pair_of(items[member]), root, static_cast<std::int64_t>(member));
    }
  }

  PackedPairs finish(const Decoder& decoder, std::size_t items) {
    std::vector<std::int64_t> answer_rows = predicting_rows_;
    std::sort(answer_rows.begin(), answer_rows.end());
    answer_rows.erase(std::unique(answer_rows.begin(), answer_rows.end()), answer_rows.end());
    std::vector<std::int64_t> row_of_target;
    for (const std::int64_t row : predicting_rows_) {
      row_of_target.push_back(std::lower_bound(answer_rows.begin(), answer_rows.end(), row) -
                              answer_rows.begin());
    }
    const auto to_device = [&](const std::vector<std::int64_t>& values) {
      return at::tensor(values, at::kLong).to(decoder.device());
    };
    PackedPairs packed;
    packed.ids = to_device(ids_);
    packed.layout = decoder.layout(positions_, parts_, answer_rows);
    packed.row_of_target = to_device(row_of_target);
    packed.targets = to_device(targets_);
    packed.answer_of_target = std::move(answer_of_target_);
    packed.steering_of_token = std::move(steering_of_token_);
    packed.pair_of_token = std::move(pair_of_token_);
    packed.offset_of_token = std::move(offset_of_token_);
    packed.items = static_cast<std::int64_t>(items);
    return packed;
  }

 private:
  const TokenPair& pair_of(const PackItem& item) const {
    const TokenPair& pair = pairs_.at(static_cast<std::size_t>(item.pair));
    if (pair.prompt.empty() || pair.chosen.empty() || pair.rejected.empty()) {
      throw BugError(fmt::format("packing: {} has an empty part", pair.where));
    }
    return pair;
  }

  void add_pair(const TokenPair& pair, Range root, std::int64_t item) {
    const auto prompt_size = static_cast<std::int64_t>(pair.prompt.size());
    const auto shared = static_cast<std::size_t>(root.size());
    std::vector<Range> prompt;
    if (root.size() > 0) {
      prompt.push_back(root);
    }
    const Range rest =
        append(pair.prompt, shared, pair.prompt.size(), root.size(), root.size(), prompt);
    if (rest.size() > 0) {
      prompt.push_back(rest);
    }
    const std::int64_t chosen_offset = prompt_size;
    const std::int64_t rejected_offset =
        chosen_offset + static_cast<std::int64_t>(pair.chosen.size()) - 1;
    add_answer(pair.chosen, prompt, prompt_size, chosen_offset, 2 * item);
    add_answer(pair.rejected, prompt, prompt_size, rejected_offset, 2 * item + 1);
  }

  // Tokens [begin, end) as rows of their own, from `position` in the sequence and `offset` in the
  // pair's own packing on.
  Range append(const std::vector<TokenId>& tokens, std::size_t begin, std::size_t end,
               std::int64_t position, std::int64_t offset, const std::vector<Range>& context) {
    const auto first = static_cast<std::int64_t>(ids_.size());
    for (std::size_t i = begin; i < end; ++i) {
      ids_.push_back(tokens[i]);
      positions_.push_back(position++);
      steering_of_token_.push_back(steering_);
      pair_of_token_.push_back(pair_);
      offset_of_token_.push_back(offset++);
    }
    const Range rows{first, static_cast<std::int64_t>(ids_.size())};
    if (rows.size() > 0) {
      parts_.push_back({rows, context});
    }
    return rows;
  }

  void add_answer(const std::vector<TokenId>& answer, const std::vector<Range>& prompt,
                  std::int64_t position, std::int64_t offset, std::int64_t index) {
    const Range rows = append(answer, 0, answer.size() - 1, position, offset, prompt);
    for (std::size_t i = 0; i < answer.size(); ++i) {
      predicting_rows_.push_back(i == 0 ? prompt.back().end - 1
                                        : rows.begin + static_cast<std::int64_t>(i) - 1);
      targets_.push_back(answer[i]);
      answer_of_target_.push_back(index);
    }
  }

  const std::vector<TokenPair>& pairs_;
  std::int64_t steering_ = 0;  // of the rows that are being added
  std::int64_t pair_ = 0;      // likewise
  std::vector<std::int64_t> ids_;
  std::vector<std::int64_t> positions_;
  std::vector<SequencePart> parts_;
  std::vector<std::int64_t> predicting_rows_;
  std::vector<std::int64_t> targets_;
  std::vector<std::int64_t> answer_of_target_;
  std::vector<std::int64_t> steering_of_token_;
  std::vector<std::int64_t> pair_of_token_;
  std::vector<std::int64_t> offset_of_token_;
};

}  // namespace

std::int64_t packed_size(const TokenPair& pair) {
  return static_cast<std::int64_t>(pair.prompt.size() + pair.chosen.size() + pair.rejected.size()) -
         2;
}

std::vector<std::int64_t> packed_sizes(const std::vector<TokenPair>& pairs) {
  std::vector<std::int64_t> sizes(pairs.size());
  std::transform(pairs.begin(), pairs.end(), sizes.begin(), packed_size);
  return sizes;
}

PackedPairs pack_pairs(const std::vector<TokenPair>& pairs, const std::vector<PackItem>& items,
                       const Decoder& decoder) {
  std::map<std::int64_t, std::vector<std::size_t>> trees;
  for (std::size_t i = 0; i < items.size(); ++i) {
    trees[items[i].steering].push_back(i);
  }
  Packer packer(pairs);
  for (const auto& [steering, members] : trees) {
    packer.add_tree(items, members);
  }
  return packer.finish(decoder, items.size());
}

PackedPairs pack_alike(const std::vector<TokenPair>& pairs,
                       const std::vector<std::int64_t>& indices, const Decoder& decoder) {
  std::vector<PackItem> items;
  for (const std::int64_t index : indices) {
    items.push_back({index, 0});
  }
  return pack_pairs(pairs, items, decoder);
}

}  // namespace bipo
