// Texts in columns: what stands where.
#include "experiments/progress/side_by_side.hpp"

#include <gtest/gtest.h>

#include <sstream>

namespace bipo {
namespace {

using Lines = std::vector<std::string>;

TEST(SideBySide, BreaksBetweenWords) {
  EXPECT_EQ(side_by_side({"one", "two"}, {"the quick brown fox jumps over the dog", "a\nb"}, 43),
            (Lines{"one                  | two", "the quick brown fox  | a",
                   "jumps over the dog   | b"}));
}

TEST(SideBySide, BreaksWordsThatAreWiderThanAColumn) {
  EXPECT_EQ(side_by_side({"x"}, {std::string(25, 'a') + " b"}, 20),
            (Lines{"x", std::string(20, 'a'), "aaaaa b"}));
}

TEST(SideBySide, StandsBelowEachOtherWhereThereIsNoRoom) {
  EXPECT_EQ(side_by_side({"one", "two"}, {"some text", "more"}, 30),
            (Lines{"--- one", "some text", "--- two", "more"}));
}

// A Chinese character takes two columns, a combining accent none.
TEST(SideBySide, CountsColumnsNotBytes) {
  EXPECT_EQ(side_by_side({"a", "b"}, {"猫猫", "e\u0301"}, 43),
            (Lines{"a                    | b", "猫猫                 | e\u0301"}));
}

TEST(SideBySide, ControlCharactersDoNotReachTheTerminal) {
  EXPECT_EQ(side_by_side({"a"}, {"x\033[2Jy"}, 40), (Lines{"a", "x [2Jy"}));
}

TEST(ColumnDisplay, RedrawsWhatItShowedAndShowsTheEndOfWhatIsTooLong) {
  std::ostringstream out;
  ColumnDisplay display(out, {"a"}, 40, 3);
  display.show({"1"});
  EXPECT_EQ(out.str(), "a\n1\n");
  out.str("");
  display.show({"1\n2\n3"});
  EXPECT_EQ(out.str(), "\033[2A\033[J2\n3\n");
  out.str("");
  display.finish({"1\n2\n3"});
  EXPECT_EQ(out.str(), "\033[2A\033[Ja\n1\n2\n3\n");
}

}  // namespace
}  // namespace bipo
