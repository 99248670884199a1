#include "experiments/progress/side_by_side.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <ostream>
#include <utility>

namespace bipo {
namespace {

constexpr std::size_t kNarrowestColumn = 20;
constexpr const char* kGap = " | ";
constexpr std::size_t kGapWidth = 3;

struct Character {
  std::string bytes;
  std::size_t width;  // columns of a terminal
};

// Splits UTF-8 text; an invalid byte becomes U+FFFD.
std::vector<Character> characters(const std::string& text) {
  std::vector<Character> result;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto rest = static_cast<utf8proc_ssize_t>(text.size());
  while (rest > 0) {
    utf8proc_int32_t point = 0;
    utf8proc_ssize_t length = utf8proc_iterate(bytes, rest, &point);
    if (length <= 0) {
      result.push_back({"\uFFFD", 1});
      length = 1;
    } else if (point == '\n') {
      result.push_back({"\n", 0});
    } else if (utf8proc_category(point) == UTF8PROC_CATEGORY_CC) {
      result.push_back({" ", 1});
    } else {
      result.push_back(
          {std::string(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(length)),
           static_cast<std::size_t>(std::max(0, utf8proc_charwidth(point)))});
    }
    bytes += length;
    rest -= length;
  }
  return result;
}

struct Line {
  std::string text;
  std::size_t width = 0;

  void add(const Line& other) {
    text += other.text;
    width += other.width;
  }
};

// Breaks `text` into lines of at most `width` columns.
std::vector<Line> wrapped(const std::string& text, std::size_t width) {
  std::vector<Line> lines(1);
  Line word;
  Line blank;  // before the word
  const auto end_word = [&] {
    if (lines.back().width + blank.width + word.width > width) {
      lines.emplace_back();
    } else {
      lines.back().add(blank);
    }
    lines.back().add(word);
    word = blank = {};
  };
  for (const Character& character : characters(text)) {
    if (character.bytes == "\n") {
      end_word();
      lines.emplace_back();
    } else if (character.bytes == " ") {
      if (word.width > 0) {
        end_word();
      }
      blank.add({" ", 1});
    } else {
      if (word.width + character.width > width) {
        end_word();
      }
      word.add({character.bytes, character.width});
    }
  }
  end_word();
  return lines;
}

std::string padded(const Line& line, std::size_t width) {
  return line.text + std::string(width - std::min(width, line.width), ' ');
}

std::string without_trailing_blanks(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

std::vector<std::string> below_each_other(const std::vector<std::string>& titles,
                                          const std::vector<std::string>& texts,
                                          std::size_t width) {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    result.push_back("--- " + titles[i]);
    for (const Line& line : wrapped(texts[i], width)) {
      result.push_back(without_trailing_blanks(line.text));
    }
  }
  return result;
}

}  // namespace

std::vector<std::string> side_by_side(const std::vector<std::string>& titles,
                                      const std::vector<std::string>& texts, std::size_t width) {
  const std::size_t count = texts.size();
  const std::size_t gaps = kGapWidth * (count - 1);
  const std::size_t column = width > gaps ? (width - gaps) / count : 0;
  if (column < kNarrowestColumn) {
    return below_each_other(titles, texts, std::max<std::size_t>(width, 1));
  }
  std::vector<std::vector<Line>> columns;
  std::size_t rows = 0;
  for (std::size_t i = 0; i < count; ++i) {
    columns.push_back(wrapped(texts[i], column));
    columns.back().insert(columns.back().begin(), wrapped(titles[i], column).front());
    rows = std::max(rows, columns.back().size());
  }
  std::vector<std::string> result;
  for (std::size_t row = 0; row < rows; ++row) {
    std::string line;
    for (std::size_t i = 0; i < count; ++i) {
      line += i == 0 ? "" : kGap;
      line += padded(row < columns[i].size() ? columns[i][row] : Line{}, column);
    }
    result.push_back(without_trailing_blanks(line));
  }
  return result;
}

ColumnDisplay::ColumnDisplay(std::ostream& out, std::vector<std::string> titles, std::size_t width,
                             std::size_t height)
    : out_(out), titles_(std::move(titles)), width_(width), height_(height) {
}

void ColumnDisplay::erase() {
  if (shown_ > 0) {
    out_ << "\033[" << shown_ << "A\033[J";  // cursor up, clear to the end of the screen
  }
  shown_ = 0;
}

void ColumnDisplay::show(const std::vector<std::string>& texts) {
  const std::vector<std::string> lines = side_by_side(titles_, texts, width_);
  erase();
  const std::size_t first =
      lines.size() - std::min(lines.size(), std::max<std::size_t>(height_, 2) - 1);
  for (std::size_t i = first; i < lines.size(); ++i) {
    out_ << lines[i] << '\n';
    ++shown_;
  }
  out_ << std::flush;
}

void ColumnDisplay::finish(const std::vector<std::string>& texts) {
  erase();
  for (const std::string& line : side_by_side(titles_, texts, width_)) {
    out_ << line << '\n';
  }
}

}  // namespace bipo
