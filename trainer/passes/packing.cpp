#include "trainer/passes/packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/upload.hpp"

namespace bipo {
namespace {

const ScoredTokens kAllScored;

struct Answer {
  const std::vector<TokenId>* tokens = nullptr;
  const ScoredTokens* scored = nullptr;
};

// An item's sequences: every answer follows the prompt.
struct Sequences {
  const std::vector<TokenId>* prompt = nullptr;
  std::vector<Answer> answers;
  const std::string* where = nullptr;
};

Sequences sequences_of(const TokenPair& pair) {
  return {&pair.prompt,
          {{&pair.chosen, &pair.chosen_scored}, {&pair.rejected, &pair.rejected_scored}},
          &pair.where};
}

Sequences sequences_of(const Continuations& item) {
  Sequences sequences{&item.prompt, {}, &item.where};
  for (std::size_t i = 0; i < item.answers.size(); ++i) {
    sequences.answers.push_back(
        {&item.answers[i], item.scored.empty() ? &kAllScored : &item.scored.at(i)});
  }
  return sequences;
}

void require_tokens(const Sequences& item) {
  const bool has_empty_answer =
      std::any_of(item.answers.begin(), item.answers.end(),
                  [](const Answer& answer) { return answer.tokens->empty(); });
  if (item.prompt->empty() || item.answers.empty() || has_empty_answer) {
    throw BugError(fmt::format("packing: {} has an empty part", *item.where));
  }
  // The last token takes no row of its own: were it not scored, nothing would need the others.
  for (const Answer& answer : item.answers) {
    const ScoredTokens& scored = *answer.scored;
    if (!scored.empty() && (scored.size() != answer.tokens->size() || !scored.back())) {
      throw BugError(
          fmt::format("packing: the scored tokens of {} do not fit its answer", *item.where));
    }
  }
}

class Packer {
 public:
  // `sequences` belong to `items`, in their order.
  Packer(const std::vector<PackItem>& items, std::vector<Sequences> sequences)
      : items_(items), sequences_(std::move(sequences)), first_answer_{0} {
    for (const Sequences& item : sequences_) {
      require_tokens(item);
      first_answer_.push_back(first_answer_.back() +
                              static_cast<std::int64_t>(item.answers.size()));
    }
  }

  // Adds items that are steered alike; `members` are their places in the batch.
  void add_tree(const std::vector<std::size_t>& members) {
    steering_ = items_[members.front()].steering;
    pair_ = items_[members.front()].pair;
    const std::vector<TokenId>& first = *sequences_[members.front()].prompt;
    const std::size_t shared = shared_by(members);
    const Range root = append(first, 0, shared, 0, 0, {});
    mark_prompt(first, 0, root);
    for (const std::size_t member : members) {
      pair_ = items_[member].pair;
      add_item(member, root);
    }
  }

  PackedAnswers finish(const Decoder& decoder, const AddTables& add_tables) {
    const std::shared_ptr<UnsentPairs> unsent = begin(decoder, add_tables, /*rounds=*/false);
    unsent->upload.send(decoder.device());
    unsent->finish();
    return std::move(unsent->packed);
  }

  // `rounds`: fills the batch up as pack_unsent() says.
  std::shared_ptr<UnsentPairs> begin(const Decoder& decoder, const AddTables& add_tables,
                                     bool rounds) {
    if (rounds) {
      fill_up();
    }
    const std::vector<std::int64_t> answer_rows = distinct_predicting_rows();
    std::vector<std::int64_t> row_of_target;
    for (const std::int64_t row : predicting_rows_) {
      row_of_target.push_back(std::lower_bound(answer_rows.begin(), answer_rows.end(), row) -
                              answer_rows.begin());
    }
    const auto unsent = std::make_shared<UnsentPairs>();
    unsent->packed = std::move(packed_);
    unsent->packed.items = static_cast<std::int64_t>(items_.size());
    unsent->packed.answers = first_answer_.back();
    unsent->upload.add(ids_, unsent->packed.ids);
    unsent->upload.add(row_of_target, unsent->packed.row_of_target);
    unsent->upload.add(targets_, unsent->packed.targets);
    if (add_tables) {
      add_tables(unsent->packed, unsent->upload);
    }
    unsent->layout = decoder.begin_layout(positions_, parts_, answer_rows, unsent->upload, rounds);
    return unsent;
  }

 private:
  // Counts the tokens that all the members' prompts begin with and that are steered in all of them
  // or in none.
  std::size_t shared_by(const std::vector<std::size_t>& members) const {
    const std::vector<TokenId>& first = *sequences_[members.front()].prompt;
    const std::vector<bool> steered = steered_rows(first);
    auto end = first.end();
    for (const std::size_t member : members) {
      const std::vector<TokenId>& prompt = *sequences_[member].prompt;
      end = std::mismatch(first.begin(), end, prompt.begin(), prompt.end()).first;
      if (steering_.positions.last > 0 && prompt.size() != first.size()) {
        const auto unlike = std::mismatch(steered.begin(), steered.begin() + (end - first.begin()),
                                          steered_rows(prompt).begin());
        end = first.begin() + (unlike.first - steered.begin());
      }
    }
    return static_cast<std::size_t>(end - first.begin());
  }

  std::vector<bool> steered_rows(const std::vector<TokenId>& prompt) const {
    return steered_rows_of_prompt(static_cast<std::int64_t>(prompt.size()), prompt.front(),
                                  steering_.positions);
  }

  // Notes which of `rows`, the prompt's tokens from `begin` on, are steered.
  void mark_prompt(const std::vector<TokenId>& prompt, std::int64_t begin, Range rows) {
    const std::vector<bool> steered = steered_rows(prompt);
    for (std::int64_t i = 0; i < rows.size(); ++i) {
      packed_.is_steered[static_cast<std::size_t>(rows.begin + i)] =
          steered[static_cast<std::size_t>(begin + i)];
    }
  }

  void add_item(std::size_t member, Range root) {
    const Sequences& item = sequences_[member];
    const auto prompt_size = static_cast<std::int64_t>(item.prompt->size());
    const auto shared = static_cast<std::size_t>(root.size());
    std::vector<Range> prompt;
    if (root.size() > 0) {
      prompt.push_back(root);
    }
    const Range rest =
        append(*item.prompt, shared, item.prompt->size(), root.size(), root.size(), prompt);
    mark_prompt(*item.prompt, root.size(), rest);
    if (rest.size() > 0) {
      prompt.push_back(rest);
    }
    std::int64_t offset = prompt_size;
    std::int64_t index = first_answer_[member];
    for (const Answer& answer : item.answers) {
      add_answer(answer, prompt, prompt_size, offset, index++);
      offset += static_cast<std::int64_t>(answer.tokens->size()) - 1;
    }
  }

  // Adds tokens [begin, end) as rows; the first is at `position` in the sequence and at `offset` in
  // the item's packing by itself.
  Range append(const std::vector<TokenId>& tokens, std::size_t begin, std::size_t end,
               std::int64_t position, std::int64_t offset, const std::vector<Range>& context) {
    const auto first = static_cast<std::int64_t>(ids_.size());
    for (std::size_t i = begin; i < end; ++i) {
      ids_.push_back(tokens[i]);
      positions_.push_back(position++);
      packed_.steering_of_token.push_back(steering_);
      packed_.is_steered.push_back(steering_.positions.kind == SteeredPositions::Kind::kAll);
      packed_.pair_of_token.push_back(pair_);
      packed_.offset_of_token.push_back(offset++);
    }
    const Range rows{first, static_cast<std::int64_t>(ids_.size())};
    if (rows.size() > 0) {
      parts_.push_back({rows, context});
    }
    return rows;
  }

  void add_answer(const Answer& answer, const std::vector<Range>& prompt, std::int64_t position,
                  std::int64_t offset, std::int64_t index) {
    const std::vector<TokenId>& tokens = *answer.tokens;
    const Range rows = append(tokens, 0, tokens.size() - 1, position, offset, prompt);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (!is_scored(*answer.scored, i)) {
        continue;
      }
      const std::int64_t row = rows.begin + static_cast<std::int64_t>(i);
      if (row < rows.end) {
        packed_.is_steered[static_cast<std::size_t>(row)] = steering_.positions.steers_answers();
      }
      predicting_rows_.push_back(i == 0 ? prompt.back().end - 1 : row - 1);
      targets_.push_back(tokens[i]);
      packed_.answer_of_target.push_back(index);
    }
  }

  std::vector<std::int64_t> distinct_predicting_rows() const {
    std::vector<std::int64_t> rows = predicting_rows_;
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return rows;
  }

  // Adds rows in parts no longer than those that are there, the first of which predict, and as many
  // targets as it takes.
  void fill_up() {
    const std::int64_t rows = std::ssize(ids_);
    const std::int64_t predicting = std::ssize(distinct_predicting_rows());
    const std::int64_t more_predicting = rounded_size(predicting + 1) - predicting;
    const std::int64_t targets = std::ssize(targets_);
    const std::int64_t more_targets = rounded_size(targets + more_predicting) - targets;
    std::int64_t longest = 0;
    for (const SequencePart& part : parts_) {
      longest = std::max(longest, part.rows.size());
    }
    const std::int64_t end = rounded_size(rows + more_predicting);
    for (std::int64_t begin = rows; begin < end; begin += longest) {
      parts_.push_back({{begin, std::min(begin + longest, end)}, {}});
      for (std::int64_t row = begin; row < parts_.back().rows.end; ++row) {
        ids_.push_back(ids_.front());
        positions_.push_back(row - begin);
        packed_.steering_of_token.push_back({0, 1, 0.0});
        packed_.is_steered.push_back(false);
        packed_.pair_of_token.push_back(items_.front().pair);
        packed_.offset_of_token.push_back(0);
      }
    }
    for (std::int64_t i = 0; i < more_targets; ++i) {
      predicting_rows_.push_back(rows + i % more_predicting);
      targets_.push_back(targets_.front());
      packed_.answer_of_target.push_back(first_answer_.back());
    }
  }

  const std::vector<PackItem>& items_;
  std::vector<Sequences> sequences_;        // of each item
  std::vector<std::int64_t> first_answer_;  // of each item, and the number of all
  SteeringChoice steering_;                 // of the rows that are being added
  std::int64_t pair_ = 0;                   // likewise
  std::vector<std::int64_t> ids_;
  std::vector<std::int64_t> positions_;
  std::vector<SequencePart> parts_;
  std::vector<std::int64_t> predicting_rows_;
  std::vector<std::int64_t> targets_;
  PackedAnswers packed_;
};

// The packer refers to `items`.
template <typename Item>
Packer packer_of(const std::vector<Item>& all, const std::vector<PackItem>& items) {
  std::vector<Sequences> sequences;
  std::map<SteeringChoice, std::vector<std::size_t>> trees;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sequences.push_back(sequences_of(all.at(static_cast<std::size_t>(items[i].pair))));
    trees[items[i].steering].push_back(i);
  }
  Packer packer(items, std::move(sequences));
  for (const auto& [steering, members] : trees) {
    packer.add_tree(members);
  }
  return packer;
}

template <typename Item>
PackedAnswers pack(const std::vector<Item>& all, const std::vector<PackItem>& items,
                   const Decoder& decoder, const AddTables& add_tables = {}) {
  return packer_of(all, items).finish(decoder, add_tables);
}

std::vector<PackItem> alike(const std::vector<std::int64_t>& indices,
                            const SteeredPositions& positions) {
  std::vector<PackItem> items;
  for (const std::int64_t index : indices) {
    items.push_back({index, {0, 0, 1, positions}});
  }
  return items;
}

}  // namespace

std::int64_t packed_size(const TokenPair& pair) {
  return static_cast<std::int64_t>(pair.prompt.size() + pair.chosen.size() + pair.rejected.size()) -
         2;
}

bool has_steered_row(const TokenPair& pair, const SteeredPositions& positions) {
  const std::vector<bool> prompt =
      steered_rows_of_prompt(std::ssize(pair.prompt), pair.prompt.front(), positions);
  const auto has_row = [](const std::vector<TokenId>& answer, const ScoredTokens& scored) {
    for (std::size_t i = 0; i + 1 < answer.size(); ++i) {  // the last token takes none
      if (is_scored(scored, i)) {
        return true;
      }
    }
    return false;
  };
  return std::find(prompt.begin(), prompt.end(), true) != prompt.end() ||
         (positions.steers_answers() && (has_row(pair.chosen, pair.chosen_scored) ||
                                         has_row(pair.rejected, pair.rejected_scored)));
}

bool has_steered_prediction(const TokenPair& pair, const SteeredPositions& positions) {
  const bool is_end_steered =
      steered_rows_of_prompt(std::ssize(pair.prompt), pair.prompt.front(), positions).back();
  // Token i of an answer has the row that predicts token i + 1.
  const auto predicts = [&](const std::vector<TokenId>& answer, const ScoredTokens& scored) {
    bool is_steered = is_end_steered;
    for (std::size_t i = 0; i < answer.size(); ++i) {
      if (is_steered && is_scored(scored, i)) {
        return true;
      }
      is_steered = positions.kind == SteeredPositions::Kind::kAll ||
                   (positions.steers_answers() && is_scored(scored, i));
    }
    return false;
  };
  return predicts(pair.chosen, pair.chosen_scored) || predicts(pair.rejected, pair.rejected_scored);
}

std::vector<std::int64_t> packed_sizes(const std::vector<TokenPair>& pairs) {
  std::vector<std::int64_t> sizes(pairs.size());
  std::transform(pairs.begin(), pairs.end(), sizes.begin(), packed_size);
  return sizes;
}

std::vector<std::int64_t> packed_offsets(const std::vector<TokenPair>& pairs) {
  std::vector<std::int64_t> offsets{0};
  for (const TokenPair& pair : pairs) {
    offsets.push_back(offsets.back() + packed_size(pair));
  }
  return offsets;
}

std::vector<std::vector<std::int64_t>> rows_of_pairs(const PackedPairs& packed,
                                                     const std::vector<std::int64_t>& pairs) {
  std::map<std::int64_t, std::size_t> place_of_pair;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    place_of_pair[pairs[i]] = i;
  }
  std::vector<std::vector<std::int64_t>> rows(pairs.size());
  for (std::size_t t = 0; t < packed.pair_of_token.size(); ++t) {
    std::vector<std::int64_t>& of_pair = rows[place_of_pair.at(packed.pair_of_token[t])];
    // Shared tokens come first in the batch, each at its offset.
    while (static_cast<std::int64_t>(of_pair.size()) < packed.offset_of_token[t]) {
      of_pair.push_back(static_cast<std::int64_t>(of_pair.size()));
    }
    of_pair.push_back(static_cast<std::int64_t>(t));
  }
  return rows;
}

PackedPairs pack_pairs(const std::vector<TokenPair>& pairs, const std::vector<PackItem>& items,
                       const Decoder& decoder, const AddTables& add_tables) {
  return pack(pairs, items, decoder, add_tables);
}

std::shared_ptr<UnsentPairs> pack_unsent(const std::vector<TokenPair>& pairs,
                                         const std::vector<PackItem>& items, const Decoder& decoder,
                                         const AddTables& add_tables, bool rounds) {
  return packer_of(pairs, items).begin(decoder, add_tables, rounds);
}

PackedPairs pack_alike(const std::vector<TokenPair>& pairs,
                       const std::vector<std::int64_t>& indices, const Decoder& decoder,
                       const SteeredPositions& positions) {
  return pack(pairs, alike(indices, positions), decoder);
}

PackedAnswers pack_alike(const std::vector<Continuations>& continuations,
                         const std::vector<std::int64_t>& indices, const Decoder& decoder,
                         const SteeredPositions& positions) {
  return pack(continuations, alike(indices, positions), decoder);
}

PackedAnswers pack_continuations(const std::vector<Continuations>& continuations,
                                 const std::vector<PackItem>& items, const Decoder& decoder) {
  return pack(continuations, items, decoder);
}

}  // namespace bipo
