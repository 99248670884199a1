#include "datasets/tokenizer/bpe_model.hpp"

#include <fmt/format.h>

#include <atomic>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

constexpr std::int32_t kNone = -1;  // no symbol, no token

std::uint64_t pair_key(TokenId left, TokenId right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

// A token of the word in a linked list, so that a merge is constant work in words of any length.
struct Symbol {
  TokenId id = 0;
  std::int32_t previous = kNone;
  std::int32_t next = kNone;
  bool alive = true;
};

std::vector<Symbol> linked_symbols(const std::vector<TokenId>& ids) {
  std::vector<Symbol> symbols(ids.size());
  const auto count = static_cast<std::int32_t>(ids.size());
  for (std::int32_t i = 0; i < count; ++i) {
    symbols[static_cast<std::size_t>(i)] = {ids[static_cast<std::size_t>(i)], i - 1,
                                            i + 1 < count ? i + 1 : kNone, true};
  }
  return symbols;
}

// A merge that was possible when it was queued; later merges may have made it stale.
struct Candidate {
  std::int32_t rank = 0;
  std::int32_t position = 0;  // of the left symbol
  TokenId merged = 0;

  // Lowest rank first, then leftmost.
  bool operator>(const Candidate& other) const {
    return std::pair(rank, position) > std::pair(other.rank, other.position);
  }
};
using CandidateQueue =
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>>;

// The ids of a thread's latest words by one model: most words of a text come again.
class RecentWords {
 public:
  // Returns null for a word that was not kept.
  const std::vector<TokenId>* find(std::uint64_t model, std::string_view word) {
    if (model != model_) {
      ids_.clear();
      model_ = model;
    }
    const auto found = ids_.find(word);
    return found == ids_.end() ? nullptr : &found->second;
  }

  // `model`: that of the last call of find().
  void keep(std::string_view word, std::vector<TokenId> ids) {
    if (ids_.size() >= kMostWords) {
      ids_.clear();
    }
    ids_.emplace(word, std::move(ids));
  }

 private:
  static constexpr std::size_t kMostWords = 20'000;

  std::uint64_t model_ = 0;
  std::unordered_map<std::string, std::vector<TokenId>, StringHash, std::equal_to<>> ids_;
};

constexpr std::size_t kLongestKeptWord = 64;  // bytes; longer ones hardly ever come again

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

}  // namespace

std::optional<MergePair> split_merge(const std::string& line) {
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
    return std::nullopt;
  }
  return MergePair(line.substr(0, space), line.substr(space + 1));
}

BpeModel::BpeModel(BpeSettings settings) : settings_(std::move(settings)), number_(next_number()) {
  merges_.reserve(settings_.merges.size());
  std::int32_t rank = 0;
  for (const auto& [left, right] : settings_.merges) {
    const std::string described = fmt::format("\"{}\" + \"{}\"", left, right);
    const TokenId left_id = require_id(left, described);
    const TokenId right_id = require_id(right, described);
    const TokenId merged = require_id(left + right, described);
    merges_.insert_or_assign(pair_key(left_id, right_id), Merge{rank++, merged});
  }
  settings_.merges.clear();
  settings_.merges.shrink_to_fit();
}

std::optional<TokenId> BpeModel::id_of(std::string_view token) const {
  const auto found = settings_.vocabulary.find(token);
  return found == settings_.vocabulary.end() ? std::nullopt : std::optional(found->second);
}

TokenId BpeModel::require_id(const std::string& token, const std::string& merge) const {
  const std::optional<TokenId> id = id_of(token);
  if (!id) {
    throw UserError(fmt::format(
        "the merge {} needs the token \"{}\", which the vocabulary does not have", merge, token));
  }
  return *id;
}

TokenId BpeModel::unknown_id() const {
  const std::optional<TokenId> id = id_of(*settings_.unknown_token);
  if (!id) {
    throw UserError(fmt::format(
        "the text has a character that the tokenizer lacks, and its unk_token \"{}\" is not in "
        "the vocabulary",
        *settings_.unknown_token));
  }
  return *id;
}

void BpeModel::append_ids(std::string_view word, std::vector<TokenId>& ids) const {
  if (settings_.ignore_merges) {
    if (const std::optional<TokenId> whole = id_of(word)) {
      ids.push_back(*whole);
      return;
    }
  }
  if (word.size() > kLongestKeptWord) {
    append_merged(character_ids(word), ids);
    return;
  }
  thread_local RecentWords recent;
  if (const std::vector<TokenId>* known = recent.find(number_, word)) {
    ids.insert(ids.end(), known->begin(), known->end());
    return;
  }
  std::vector<TokenId> own;
  append_merged(character_ids(word), own);
  ids.insert(ids.end(), own.begin(), own.end());
  recent.keep(word, std::move(own));
}

bool BpeModel::append_byte_tokens(std::string_view character, std::vector<TokenId>& ids) const {
  std::vector<TokenId> byte_ids;
  for (const char byte : character) {
    const auto id = id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (!id) {
      return false;
    }
    byte_ids.push_back(*id);
  }
  ids.insert(ids.end(), byte_ids.begin(), byte_ids.end());
  return true;
}

std::vector<TokenId> BpeModel::character_ids(std::string_view word) const {
  std::vector<TokenId> ids;
  ids.reserve(word.size());
  // Writes an unknown token only before the next known character or at the end, so that a run can
  // be fused.  Byte tokens do not flush it: Hugging Face writes them before it.
  TokenId pending_unknown = kNone;
  const auto flush_unknown = [&] {
    if (pending_unknown != kNone) {
      ids.push_back(pending_unknown);
      pending_unknown = kNone;
    }
  };
  while (!word.empty()) {
    const std::string_view character = first_character(word);
    word.remove_prefix(character.size());
    if (const std::optional<TokenId> id = id_of(character)) {
      flush_unknown();
      ids.push_back(*id);
      continue;
    }
    if (settings_.byte_fallback && append_byte_tokens(character, ids)) {
      continue;
    }
    if (settings_.unknown_token) {
      if (!settings_.fuse_unknown) {
        flush_unknown();
      }
      pending_unknown = unknown_id();
    }
  }
  flush_unknown();
  return ids;
}

const BpeModel::Merge* BpeModel::find_merge(TokenId left, TokenId right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeModel::append_merged(std::vector<TokenId> characters, std::vector<TokenId>& ids) const {
  std::vector<Symbol> symbols = linked_symbols(characters);
  const auto symbol = [&](std::int32_t index) -> Symbol& {
    return symbols[static_cast<std::size_t>(index)];
  };

  CandidateQueue queue;
  const auto propose = [&](std::int32_t left) {
    if (left == kNone || symbol(left).next == kNone) {
      return;
    }
    if (const Merge* merge = find_merge(symbol(left).id, symbol(symbol(left).next).id)) {
      queue.push({merge->rank, left, merge->merged});
    }
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    propose(static_cast<std::int32_t>(i));
  }

  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbol(candidate.position);
    if (!left.alive || left.next == kNone) {
      continue;
    }
    Symbol& right = symbol(left.next);
    // Hugging Face recognises a stale candidate by the token that it makes, not by its rank; this
    // decides the order if two pairs make the same token.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->merged != candidate.merged) {
      continue;
    }
    left.id = candidate.merged;
    left.next = right.next;
    right.alive = false;
    if (left.next != kNone) {
      symbol(left.next).previous = candidate.position;
    }
    propose(left.previous);
    propose(candidate.position);
  }

  for (const Symbol& survivor : symbols) {
    if (survivor.alive) {
      ids.push_back(survivor.id);
    }
  }
}

}  // namespace bipo
