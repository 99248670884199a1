// Setters for the option table: each checks the text of a value by one rule and stores it.
#include "launcher/options/option_setters.hpp"

#include <fmt/format.h>

#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

template <typename Value, typename Parse>
Setter automatic_or(std::optional<Value>& target, Parse parse) {
  return [&target, parse](const std::string& text) {
    if (text == "auto") {
      target = std::nullopt;
      return;
    }
    try {
      target = parse(text);
    } catch (const UserError& rule) {
      throw UserError(fmt::format("{}, or auto", rule.what()));
    }
  };
}

}  // namespace

Setter path(std::filesystem::path& target) {
  return [&target](const std::string& text) {
    if (text.empty()) {
      throw UserError("must name a path");
    }
    target = text;
  };
}

Setter any_text(std::string& target) {
  return [&target](const std::string& text) { target = text; };
}

Setter some_text(std::string& target) {
  return [&target](const std::string& text) {
    if (text.empty()) {
      throw UserError("must not be empty");
    }
    target = text;
  };
}

Setter integer(std::int64_t& target, std::int64_t minimum) {
  return [&target, minimum](const std::string& text) { target = parse_integer(text, minimum); };
}

Setter integer(std::optional<std::int64_t>& target, std::int64_t minimum) {
  return [&target, minimum](const std::string& text) { target = parse_integer(text, minimum); };
}

Setter automatic_or_positive(std::optional<std::int64_t>& target) {
  return automatic_or(target, [](const std::string& text) { return parse_integer(text, 1); });
}

Setter unsigned_integer(std::uint64_t& target) {
  return [&target](const std::string& text) { target = parse_unsigned(text); };
}

Setter real(double& target, RealRange range) {
  return [&target, range](const std::string& text) { target = parse_real(text, range); };
}

Setter one_of(std::string& target, std::vector<std::string> names) {
  return [&target, names = std::move(names)](const std::string& text) {
    target = parse_name(text, names);
  };
}

Setter template_date(std::optional<TemplateDate>& target) {
  return [&target](const std::string& text) {
    target = TemplateDate{parse_date(text), /*given=*/true};
  };
}

Setter flag(bool& target) {
  return [&target](const std::string& text) {
    target = parse_name(text, {"true", "false"}) == "true";
  };
}

Setter on_off(bool& target) {
  return [&target](const std::string& text) { target = parse_name(text, {"on", "off"}) == "on"; };
}

Setter automatic_or_bytes(std::optional<std::uint64_t>& target) {
  return automatic_or(target, [](const std::string& text) { return parse_bytes(text); });
}

Setter real_list(std::vector<double>& target) {
  return [&target](const std::string& text) { target = parse_real_list(text); };
}

Setter positive_real_list(std::vector<double>& target) {
  return [&target](const std::string& text) { target = parse_positive_real_list(text); };
}

Setter unsigned_list(std::vector<std::uint64_t>& target) {
  return [&target](const std::string& text) { target = parse_unsigned_list(text); };
}

Setter name_list(std::vector<std::string>& target, std::vector<std::string> names) {
  return [&target, names = std::move(names)](const std::string& text) {
    target = parse_name_list(text, names);
  };
}

Setter positive_integer_list(std::vector<std::int64_t>& target) {
  return [&target](const std::string& text) { target = parse_positive_integer_list(text); };
}

Setter model_list(std::vector<NamedModel>& target) {
  return [&target](const std::string& text) { target = parse_models(text); };
}

Setter data_list(std::vector<NamedData>& target) {
  return [&target](const std::string& text) { target = parse_data_sets(text); };
}

Setter layer_list(std::vector<LayerRange>& target) {
  return [&target](const std::string& text) { target = parse_layer_ranges(text); };
}

Setter nothing() {
  return [](const std::string&) {};
}

}  // namespace bipo
