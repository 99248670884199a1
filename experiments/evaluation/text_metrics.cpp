// What generated text shows of repetition, without a model or a judge.
#include "experiments/evaluation/text_metrics.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <cstddef>
#include <set>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"

namespace bipo {
namespace {

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (!is_blank(text)) {
    text.remove_prefix(text.find_first_not_of(kBlanks));
    words.push_back(text.substr(0, text.find_first_of(kBlanks)));
    text.remove_prefix(words.back().size());
  }
  return words;
}

}  // namespace

std::optional<double> distinct_n(std::string_view text, int n) {
  if (n < 1) {
    throw BugError(fmt::format("distinct-n of n = {}", n));
  }
  const std::vector<std::string_view> words = words_of(text);
  const auto length = static_cast<std::size_t>(n);
  if (words.size() < length) {
    return std::nullopt;
  }
  const std::size_t count = words.size() - length + 1;
  std::set<std::vector<std::string_view>> distinct;
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = words.begin() + static_cast<std::ptrdiff_t>(i);
    distinct.emplace(begin, begin + n);
  }
  return static_cast<double>(distinct.size()) / static_cast<double>(count);
}

std::optional<double> compression_ratio(std::string_view text) {
  if (text.empty()) {
    return std::nullopt;
  }
  uLongf size = compressBound(static_cast<uLong>(text.size()));
  std::vector<Bytef> compressed(size);
  const int code = compress2(compressed.data(), &size, reinterpret_cast<const Bytef*>(text.data()),
                             static_cast<uLong>(text.size()), Z_BEST_COMPRESSION);
  if (code != Z_OK) {
    throw EnvironmentError(
        fmt::format("zlib: compress2 of {} bytes failed with code {}", text.size(), code));
  }
  return static_cast<double>(size) / static_cast<double>(text.size());
}

}  // namespace bipo
