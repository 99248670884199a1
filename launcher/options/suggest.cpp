#include "launcher/options/suggest.hpp"

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace bipo {
namespace {

char lower(char letter) {
  return static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
}

// Returns the optimal string alignment distance, over the full (|a|+1) x (|b|+1) table: the words
// are short.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> edits(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        edits[i][j] = i + j;
        continue;
      }
      const std::size_t substitution = lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1;
      edits[i][j] =
          std::min({edits[i - 1][j] + 1, edits[i][j - 1] + 1, edits[i - 1][j - 1] + substitution});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) {
        edits[i][j] = std::min(edits[i][j], edits[i - 2][j - 2] + 1);
      }
    }
  }
  return edits[a.size()][b.size()];
}

}  // namespace

std::string nearest_name(std::string_view word, const std::vector<std::string>& known) {
  // One letter abbreviates too much to mean anything.
  const auto abbreviated = std::find_if(known.begin(), known.end(), [&](const std::string& name) {
    return word.size() > 1 && name.starts_with(word);
  });
  if (abbreviated != known.end()) {
    return *abbreviated;
  }
  return *std::min_element(known.begin(), known.end(), [&](const auto& left, const auto& right) {
    return edit_distance(word, left) < edit_distance(word, right);
  });
}

}  // namespace bipo
