#include "trainer/intervention/site.hpp"

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"

namespace bipo {

const std::vector<std::string>& site_names() {
  static const std::vector<std::string> names = {"block", "mlp"};
  return names;
}

std::string to_string(Site site) {
  return site_names().at(static_cast<std::size_t>(site));
}

Site parse_site(std::string_view text) {
  for (const Site site : {Site::kBlock, Site::kMlp}) {
    if (text == to_string(site)) {
      return site;
    }
  }
  throw UserError("must be block or mlp");
}

std::string place_text(const SteeredPlace& place) {
  return fmt::format("{}layer {}", place.site == Site::kMlp ? "the MLP of " : "", place.layer);
}

}  // namespace bipo
