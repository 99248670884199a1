#include "datasets/tokens/pair_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {
namespace {

std::uint64_t hash_of(const TokenPair& pair) {
  ContentHash hash;
  for (const std::vector<TokenId>* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
    hash.add(std::uint64_t{part->size()});
    hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
  }
  return hash.value();
}

bool has_equal_tokens(const TokenPair& a, const TokenPair& b) {
  return a.prompt == b.prompt && a.chosen == b.chosen && a.rejected == b.rejected;
}

// Finds the first pair with given tokens.
class PairIndex {
 public:
  explicit PairIndex(const std::vector<TokenPair>& pairs) : pairs_(pairs) {}

  // Returns an indexed pair with the tokens of `pair`; null if there is none.
  const TokenPair* find(const TokenPair& pair) const {
    const auto [begin, end] = by_hash_.equal_range(hash_of(pair));
    const auto found = std::find_if(begin, end, [&](const auto& entry) {
      return has_equal_tokens(pairs_[entry.second], pair);
    });
    return found == end ? nullptr : &pairs_[found->second];
  }
  void add(std::size_t at) { by_hash_.emplace(hash_of(pairs_[at]), at); }

 private:
  const std::vector<TokenPair>& pairs_;
  std::unordered_multimap<std::uint64_t, std::size_t> by_hash_;
};

// Counts cases of trouble and keeps the first in words.
struct Trouble {
  void add(const std::string& place) {
    if (count++ == 0) {
      first = place;
    }
  }

  std::size_t count = 0;
  std::string first;
};

const char* plural(std::size_t count, const char* one, const char* several) {
  return count == 1 ? one : several;
}

// Marks of chat formats that are plain text to other tokenizers.
std::optional<std::string> known_mark(std::string_view text) {
  constexpr std::array<std::string_view, 16> kMarks = {
      "<|im_start|>",      "<|im_end|>",      "[INST]",        "[/INST]",
      "<<SYS>>",           "<start_of_turn>", "<end_of_turn>", "<|start_header_id|>",
      "<|end_header_id|>", "<|eot_id|>",      "<|user|>",      "<|assistant|>",
      "<|end|>",           "<|endoftext|>",   "\n\nHuman:",    "\n\nAssistant:"};
  for (const std::string_view mark : kMarks) {
    if (text.find(mark) != std::string_view::npos) {
      return std::string(mark);
    }
  }
  return std::nullopt;
}

// Looks only into texts with a character that special tokens begin with: encoding takes long.
std::optional<std::string> special_token_in(const std::string& text, const Tokenizer& tokenizer) {
  if (text.find_first_of("<[|") == std::string::npos) {
    return std::nullopt;
  }
  try {
    for (const TokenId id : tokenizer.encode(text)) {
      if (tokenizer.is_special(id)) {
        return tokenizer.decode(std::array{id}, SpecialTokenText::kKept);
      }
    }
  } catch (const UserError&) {
    // Text that cannot be tokenised has been named where its pair was left out.
  }
  return std::nullopt;
}

std::optional<std::string> mark_in(const PreferencePair& pair, const Tokenizer& tokenizer) {
  for (const auto* turns : {&pair.prompt, &pair.chosen, &pair.rejected}) {
    for (const Message& turn : *turns) {
      std::optional<std::string> mark = known_mark(turn.content);
      if (!mark) {
        mark = special_token_in(turn.content, tokenizer);
      }
      if (mark) {
        return mark;
      }
    }
  }
  return std::nullopt;
}

struct Repeats {
  Trouble equal;     // answers
  Trouble repeated;  // an earlier pair
};

Repeats find_repeats(const std::vector<TokenPair>& pairs) {
  Repeats found;
  PairIndex index(pairs);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i].chosen == pairs[i].rejected) {
      found.equal.add(pairs[i].where);
    }
    if (const TokenPair* earlier = index.find(pairs[i])) {
      found.repeated.add(fmt::format("{} is {} again", pairs[i].where, earlier->where));
    } else {
      index.add(i);
    }
  }
  return found;
}

}  // namespace

RepeatCounts count_repeats(const std::vector<TokenPair>& pairs) {
  const Repeats repeats = find_repeats(pairs);
  return {repeats.equal.count, repeats.repeated.count};
}

std::vector<std::string> repeat_lines(const std::string& file,
                                      const std::vector<TokenPair>& pairs) {
  const auto [equal, repeated] = find_repeats(pairs);
  std::vector<std::string> lines;
  if (equal.count > 0) {
    lines.push_back(fmt::format(
        "{}: chosen and rejected are equal in {} of {} {}, which teach and measure nothing; the "
        "first: {}",
        file, equal.count, pairs.size(), plural(pairs.size(), "pair", "pairs"), equal.first));
  }
  if (repeated.count > 0) {
    lines.push_back(fmt::format("{}: {} of {} pairs {} an earlier one; the first: {}", file,
                                repeated.count, pairs.size(),
                                plural(repeated.count, "repeats", "repeat"), repeated.first));
  }
  return lines;
}

std::vector<std::string> shared_pair_lines(const std::vector<TokenPair>& train,
                                           const std::vector<TokenPair>& test) {
  PairIndex index(train);
  for (std::size_t i = 0; i < train.size(); ++i) {
    if (index.find(train[i]) == nullptr) {
      index.add(i);
    }
  }
  Trouble shared;
  for (const TokenPair& pair : test) {
    if (const TokenPair* same = index.find(pair)) {
      shared.add(fmt::format("{} is {}", pair.where, same->where));
    }
  }
  if (shared.count == 0) {
    return {};
  }
  return {
      fmt::format("{} of {} held-out {} {} trained on as well, so that the evaluation is too good; "
                  "the first: {}",
                  shared.count, test.size(), plural(test.size(), "pair", "pairs"),
                  plural(shared.count, "is", "are"), shared.first)};
}

std::vector<std::string> templated_lines(const std::string& file,
                                         const std::vector<PreferencePair>& pairs,
                                         const Tokenizer& tokenizer) {
  Trouble marked;
  for (const PreferencePair& pair : pairs) {
    if (const std::optional<std::string> mark = mark_in(pair, tokenizer)) {
      marked.add(fmt::format("{} has {}", pair.where, nlohmann::json(*mark).dump()));
    }
  }
  if (marked.count == 0) {
    return {};
  }
  return {fmt::format(
      "{}: marks of a chat format stand in the texts of {} of {} {}, and the chat template adds "
      "its "
      "own; take the marks out if the texts are laid out already; the first: {}",
      file, marked.count, pairs.size(), plural(pairs.size(), "pair", "pairs"), marked.first)};
}

void report(std::vector<std::string> lines, OnDuplicate on_duplicate,
            std::vector<std::string>& warnings) {
  for (std::string& line : lines) {
    if (on_duplicate == OnDuplicate::kError) {
      throw UserError(fmt::format("{} (--on-duplicate error)", line));
    }
    warnings.push_back(std::move(line));
  }
}

}  // namespace bipo
