#include "experiments/formats/named_tensor.hpp"

#include <algorithm>
#include <charconv>

namespace bipo {
namespace {

constexpr std::string_view kDecimalDigits = "0123456789";
constexpr std::string_view kBlockLists[] = {"layer", "layers",    "block", "blocks",
                                            "h",     "direction", "l",     "L"};
constexpr std::string_view kListOwners[] = {"model", "base_model", "language_model", "transformer"};
// Behind a block's number.  TransformerLens calls a block's output hook_resid_post.
constexpr std::string_view kOutputNames[] = {"", "hook_resid_post"};
constexpr std::string_view kPartNames[] = {"mlp", "mlp.down_proj"};

template <std::size_t count>
bool is_one_of(std::string_view text, const std::string_view (&known)[count]) {
  return std::find(std::begin(known), std::end(known), text) != std::end(known);
}

// Returns whether the text is a list's name behind any number of its owners': "model.layers".
bool names_a_list(std::string_view text) {
  std::size_t dot = text.find('.');
  while (dot != std::string_view::npos) {
    if (!is_one_of(text.substr(0, dot), kListOwners)) {
      return false;
    }
    text.remove_prefix(dot + 1);
    dot = text.find('.');
  }
  return is_one_of(text, kBlockLists);
}

}  // namespace

std::optional<LayerName> read_layer_name(std::string_view text) {
  const std::size_t begin = std::min(text.find_first_of(kDecimalDigits), text.size());
  const std::size_t end = std::min(text.find_first_not_of(kDecimalDigits, begin), text.size());
  LayerName found;
  const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, found.layer);
  if (begin == end || error != std::errc() || stop != text.data() + end) {
    return std::nullopt;
  }
  std::string_view before = text.substr(0, begin);
  std::string_view behind = text.substr(end);
  const bool is_indexed = before.ends_with('[');
  if (is_indexed != behind.starts_with(']')) {
    return std::nullopt;
  }
  if (is_indexed) {
    behind.remove_prefix(1);
  }
  if (!before.empty() && std::string_view("[._- ").find(before.back()) != std::string_view::npos) {
    before.remove_suffix(1);
    if (before.empty()) {
      return std::nullopt;
    }
  }
  if (!before.empty() && !names_a_list(before)) {
    return std::nullopt;
  }
  if (behind.starts_with('.')) {
    behind.remove_prefix(1);
    if (behind.empty()) {
      return std::nullopt;
    }
  } else if (!behind.empty()) {
    return std::nullopt;
  }
  if (is_one_of(behind, kPartNames)) {
    found.part = behind;
    return found;
  }
  return is_one_of(behind, kOutputNames) ? std::optional(found) : std::nullopt;
}

}  // namespace bipo
