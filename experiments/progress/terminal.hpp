// What a terminal can do, and the colours that are used on it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace bipo {

struct TerminalSize {
  std::size_t columns = 0;
  std::size_t rows = 0;
};

// Returns the size of the terminal behind a descriptor; nothing where there is none, or it has no
// size.
std::optional<TerminalSize> terminal_size(int descriptor);

// Returns the size that texts on standard error are laid out for: of the terminal behind
// `descriptor`, else $COLUMNS, else of the terminal that started the process (mpirun forwards what
// its ranks print), else 80 columns and 24 rows.
TerminalSize display_size(int descriptor);

// Returns whether the terminal that $TERM names moves its cursor.
bool moves_cursor();

// Returns whether the descriptor is a terminal that shows colours: $TERM names one that does, and
// $NO_COLOR (no-color.org) is empty.
bool shows_colours(int descriptor);

enum class Colour { kNone, kRed, kYellow, kGreen };

// Returns the text with the sequences that colour it.
std::string coloured(std::string_view text, Colour colour);

// Returns at most `columns` bytes of the text, cut between characters of UTF-8.
std::string cut_to(std::string_view text, std::size_t columns);

}  // namespace bipo
