#include "launcher/light/json_output.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace bipo {

void print_json(const nlohmann::ordered_json& json) {
  fmt::print("{}\n", json.dump(2, ' ', /*ensure_ascii=*/false,
                               nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace bipo
