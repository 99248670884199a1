#include "launcher/options/config_file.hpp"

#include <fmt/format.h>

#include <sstream>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"

namespace bipo {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r";
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

bool is_section(std::string_view line) {
  return line.size() > 2 && line.front() == '[' && line.back() == ']';
}

std::string text_of(const std::filesystem::path& path) {
  try {
    return read_input_file(path, kMostSettingsBytes);
  } catch (const UserError& error) {
    throw UserError(
        fmt::format("--config {}; name an INI file with lines `option = value`", error.what()));
  }
}

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::filesystem::path& path) {
  std::istringstream file(text_of(path));
  std::vector<ConfigEntry> entries;
  std::string section;
  std::string text;
  for (int number = 1; std::getline(file, text); ++number) {
    if (text.find('\0') != std::string::npos) {  // an error message would end there
      throw UserError(fmt::format("{}:{}: holds a zero byte, so that this is no text file",
                                  path.string(), number));
    }
    const std::string_view line = trimmed(text);
    if (line.empty() || line.front() == '#' || line.front() == ';') {
      continue;
    }
    if (is_section(line)) {
      section = trimmed(line.substr(1, line.size() - 2));
      continue;
    }
    const auto equals = line.find('=');
    const std::string_view key = trimmed(line.substr(0, equals));
    if (equals == std::string_view::npos || key.empty()) {
      throw UserError(
          fmt::format("{}:{}: '{}' is not a line of the form `option = value`; correct it, or "
                      "begin it with '#' to make it a comment",
                      path.string(), number, line));
    }
    entries.push_back(
        {section, std::string(key), std::string(trimmed(line.substr(equals + 1))), number});
  }
  return entries;
}

}  // namespace bipo
