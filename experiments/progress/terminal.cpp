#include "experiments/progress/terminal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {
namespace {

constexpr TerminalSize kDefaultSize{80, 24};

std::string_view environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

// Returns 0 where the variable holds no number.
std::size_t columns_from_environment() {
  const std::string_view digits = environment("COLUMNS");
  std::size_t columns = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), columns);
  return columns;
}

std::optional<TerminalSize> size_of_own_terminal() {
  const FileDescriptor terminal = open_file("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
  return terminal.is_open() ? terminal_size(terminal.get()) : std::nullopt;
}

}  // namespace

std::optional<TerminalSize> terminal_size(int descriptor) {
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return std::nullopt;
  }
  return TerminalSize{size.ws_col, size.ws_row > 0 ? size.ws_row : kDefaultSize.rows};
}

TerminalSize display_size(int descriptor) {
  if (const auto size = terminal_size(descriptor)) {
    return *size;
  }
  TerminalSize size = size_of_own_terminal().value_or(kDefaultSize);
  if (const std::size_t columns = columns_from_environment()) {
    size.columns = columns;
  }
  return size;
}

bool moves_cursor() {
  const std::string_view terminal = environment("TERM");
  return !terminal.empty() && terminal != "dumb";
}

bool shows_colours(int descriptor) {
  return ::isatty(descriptor) == 1 && moves_cursor() && environment("NO_COLOR").empty();
}

std::string coloured(std::string_view text, Colour colour) {
  switch (colour) {
    case Colour::kRed:
      return fmt::format("\033[31m{}\033[0m", text);
    case Colour::kYellow:
      return fmt::format("\033[33m{}\033[0m", text);
    case Colour::kGreen:
      return fmt::format("\033[32m{}\033[0m", text);
    case Colour::kNone:
      break;
  }
  return std::string(text);
}

std::string cut_to(std::string_view text, std::size_t columns) {
  if (text.size() <= columns) {
    return std::string(text);
  }
  std::size_t end = columns;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
    --end;  // in the middle of a character
  }
  return std::string(text.substr(0, end));
}

}  // namespace bipo
