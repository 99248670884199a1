#include "trainer/intervention/intervention.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "collectives/foundation/errors.hpp"

namespace bipo {

Intervention parse_intervention(std::string_view text) {
  constexpr std::string_view kClamp = "clamp:";
  if (text == "add") {
    return {};
  }
  if (text == "null") {
    return {Intervention::Kind::kNull, 0};
  }
  if (text.starts_with(kClamp)) {
    std::string_view number = text.substr(kClamp.size());
    number.remove_prefix(number.starts_with('+') ? 1 : 0);
    double level = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), level);
    if (error == std::errc() && end == number.data() + number.size() && std::isfinite(level)) {
      return {Intervention::Kind::kClamp, level};
    }
  }
  if (text.starts_with("conceptor")) {
    throw UserError(
        "must be add, null or clamp:X; a conceptor is not chosen here: a --vector that is a "
        "conceptor's file acts as one, with @W as its beta");
  }
  throw UserError("must be add, null, or clamp:X with a finite number X, as in clamp:12.5");
}

std::string to_string(const Intervention& intervention) {
  switch (intervention.kind) {
    case Intervention::Kind::kAdd:
      return "add";
    case Intervention::Kind::kNull:
      return "null";
    case Intervention::Kind::kConceptor:
      return fmt::format("conceptor:{}", intervention.level);
    case Intervention::Kind::kClamp:
      break;
  }
  return fmt::format("clamp:{}", intervention.level);
}

}  // namespace bipo
