// Lays texts out in columns, so that a person can compare them while they grow.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <vector>

namespace bipo {

// Returns lines of at most `width` terminal columns: a title line, then the texts (UTF-8), broken
// between words where possible.  Puts the texts below each other where columns would be narrower
// than 20.  Replaces control characters other than line breaks by spaces.
std::vector<std::string> side_by_side(const std::vector<std::string>& titles,
                                      const std::vector<std::string>& texts, std::size_t width);

// Redraws the columns in place on a terminal.
class ColumnDisplay {
 public:
  // `height`: lines of the terminal; while texts grow, only the last lines that fit are shown.
  ColumnDisplay(std::ostream& out, std::vector<std::string> titles, std::size_t width,
                std::size_t height);

  void show(const std::vector<std::string>& texts);

  // Prints everything from the first line on; to be called once, at the end.
  void finish(const std::vector<std::string>& texts);

 private:
  void erase();

  std::ostream& out_;
  std::vector<std::string> titles_;
  std::size_t width_;
  std::size_t height_;
  std::size_t shown_ = 0;  // lines on the terminal now
};

}  // namespace bipo
