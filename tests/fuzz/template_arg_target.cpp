// Fuzzes the reader of --template-arg NAME=JSON.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"
#include "experiments/settings/option_values.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto [name, value] =
        bipo::parse_template_arg(std::string(reinterpret_cast<const char*>(data), size));
    if (name.empty() || !bipo::is_utf8(name) || value.is_discarded()) {
      throw std::logic_error("accepted, but no variable");
    }
  } catch (const bipo::UserError&) {
    // The right answer to a bad argument; anything else is a finding.
  }
  return 0;
}
