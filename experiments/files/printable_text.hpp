// Names out of files that are not trusted, as messages show them.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace bipo {

// What is not printable ASCII becomes '?', and a long text is cut off.
inline std::string printable(std::string_view text) {
  constexpr std::size_t kMostShown = 100;
  std::string shown(text.substr(0, kMostShown));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > kMostShown ? shown + "..." : shown;
}

}  // namespace bipo
