#include "datasets/tokenizer/normalizer.hpp"

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

std::string strip_space(const StripSpaceStep& step, std::string_view text) {
  if (step.left) {
    text.remove_prefix(leading_white_space(text));
  }
  if (step.right) {
    text.remove_suffix(trailing_white_space(text));
  }
  return std::string(text);
}

struct ApplyRewrite {
  std::string operator()(UnicodeForm form) const { return to_unicode_form(text, form); }
  std::string operator()(const PrependStep& step) const {
    return text.empty() ? std::string() : step.text + std::string(text);
  }
  std::string operator()(const ReplaceStep& step) const { return replace_all(step, text); }
  std::string operator()(const StripSpaceStep& step) const { return strip_space(step, text); }
  std::string operator()(LowercaseStep) const { return to_lower_case(text); }

  std::string_view text;
};

}  // namespace

void require_bounded_growth(std::size_t before, std::size_t after) {
  // Unicode's compatibility forms and the byte-level alphabet together reach 22 at most.
  constexpr std::size_t kMostPerByte = 256;
  constexpr std::size_t kAlwaysAllowed = 4096;
  if (after / kMostPerByte > before && after > kAlwaysAllowed) {
    throw UserError(fmt::format(
        "the tokenizer's rules make {} bytes of a text of {}; more than {} times as many are "
        "refused",
        after, before, kMostPerByte));
  }
}

std::string replace_all(const ReplaceStep& step, std::string_view text) {
  if (text.empty()) {
    return "";  // even if the pattern matches empty text: Hugging Face does not search there
  }
  std::string replaced;
  replaced.reserve(text.size());
  std::size_t cut = 0;  // everything before it is in `replaced`
  for (const Span& match : step.pattern.find_all(text)) {
    replaced += text.substr(cut, match.begin - cut);
    replaced += step.content;
    cut = match.end;
    require_bounded_growth(text.size(), replaced.size());
  }
  replaced += text.substr(cut);
  return replaced;
}

std::string Normalizer::normalize(std::string_view text) const {
  std::string normalized(text);
  for (const NormalizerStep& step : steps_) {
    normalized = std::visit(ApplyRewrite{normalized}, step);
    require_bounded_growth(text.size(), normalized.size());
  }
  return normalized;
}

}  // namespace bipo
