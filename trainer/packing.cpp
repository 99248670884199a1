#include "trainer/packing.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

class Packer {
 public:
  void add(const TokenPair& pair) {
    if (pair.prompt.empty() || pair.chosen.empty() || pair.rejected.empty()) {
      throw BugError(fmt::format("packing: {} has an empty part", pair.where));
    }
    const Range prompt = append(pair.prompt, pair.prompt.size(), 0, {});
    add_answer(pair, pair.chosen, prompt, 2 * pairs_);
    add_answer(pair, pair.rejected, prompt, 2 * pairs_ + 1);
    ++pairs_;
  }

  PackedPairs finish(const Decoder& decoder) {
    const auto to_device = [&](const std::vector<std::int64_t>& values) {
      return at::tensor(values, at::kLong).to(decoder.device());
    };
    PackedPairs packed;
    packed.ids = to_device(ids_);
    packed.layout = decoder.layout(positions_, std::move(spans_));
    packed.rows = to_device(rows_);
    packed.targets = to_device(targets_);
    packed.answer_of_row = std::move(answer_of_row_);
    packed.pair_of_token = std::move(pair_of_token_);
    packed.pairs = pairs_;
    return packed;
  }

 private:
  // The first `count` tokens as rows of their own, at positions from `position` on.
  Range append(const std::vector<TokenId>& tokens, std::size_t count, std::int64_t position,
               const std::vector<Range>& context) {
    const auto begin = static_cast<std::int64_t>(ids_.size());
    for (std::size_t i = 0; i < count; ++i) {
      ids_.push_back(tokens[i]);
      positions_.push_back(position + static_cast<std::int64_t>(i));
      pair_of_token_.push_back(pairs_);
    }
    const Range rows{begin, static_cast<std::int64_t>(ids_.size())};
    if (rows.size() > 0) {
      spans_.push_back({rows, context});
    }
    return rows;
  }

  void add_answer(const TokenPair& pair, const std::vector<TokenId>& answer, Range prompt,
                  std::int64_t index) {
    const Range rows =
        append(answer, answer.size() - 1, static_cast<std::int64_t>(pair.prompt.size()), {prompt});
    for (std::size_t i = 0; i < answer.size(); ++i) {
      rows_.push_back(i == 0 ? prompt.end - 1 : rows.begin + static_cast<std::int64_t>(i) - 1);
      targets_.push_back(answer[i]);
      answer_of_row_.push_back(index);
    }
  }

  std::vector<std::int64_t> ids_;
  std::vector<std::int64_t> positions_;
  std::vector<AttentionSpan> spans_;
  std::vector<std::int64_t> rows_;
  std::vector<std::int64_t> targets_;
  std::vector<std::int64_t> answer_of_row_;
  std::vector<std::int64_t> pair_of_token_;
  std::int64_t pairs_ = 0;
};

}  // namespace

std::int64_t packed_size(const TokenPair& pair) {
  return static_cast<std::int64_t>(pair.prompt.size() + pair.chosen.size() + pair.rejected.size()) -
         2;
}

PackedPairs pack_pairs(const std::vector<TokenPair>& pairs,
                       const std::vector<std::int64_t>& indices, const Decoder& decoder) {
  Packer packer;
  for (const std::int64_t index : indices) {
    packer.add(pairs.at(static_cast<std::size_t>(index)));
  }
  return packer.finish(decoder);
}

}  // namespace bipo
