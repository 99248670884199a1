#include "experiments/settings/earlier_defaults.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bipo {
namespace {

constexpr const char* kEarlierRun = R"({"lr":0.0005,"lr_unit":"absolute","epochs":20})";

TEST(EarlierDefaults, GoOnInARunThatBeganWithThem) {
  TrainOptions options;
  keep_earlier_defaults(options, kEarlierRun);
  EXPECT_EQ(options.lr, 5e-4);
  EXPECT_EQ(options.lr_unit, LrUnit::kAbsolute);
  EXPECT_EQ(options.epochs, 20);
}

TEST(EarlierDefaults, GiveWayToWhatIsGiven) {
  TrainOptions options;
  options.given = {"lr", "lr-unit", "epochs"};
  options.lr = 0.25;
  options.lr_unit = LrUnit::kResidual;
  options.epochs = 7;
  keep_earlier_defaults(options, kEarlierRun);
  EXPECT_EQ(options.lr, 0.25);
  EXPECT_EQ(options.lr_unit, LrUnit::kResidual);
  EXPECT_EQ(options.epochs, 7);
}

// A run with other settings began with options, which its user has to give again.
TEST(EarlierDefaults, AreNoReasonToTakeOtherStoredValues) {
  for (const char* stored : {R"({"lr":0.001,"lr_unit":"residual","epochs":5})", "{}", "[]", ""}) {
    TrainOptions options;
    keep_earlier_defaults(options, stored);
    const TrainOptions untouched;
    EXPECT_EQ(options.lr, untouched.lr) << stored;
    EXPECT_EQ(options.lr_unit, untouched.lr_unit) << stored;
    EXPECT_EQ(options.epochs, untouched.epochs) << stored;
  }
}

TEST(EarlierDefaults, GoOnInASweep) {
  SweepOptions options;
  keep_earlier_defaults(options, R"({"settings":{"lr_unit":"absolute"},
      "cells":[{"lr":0.0005,"epochs":20},{"lr":0.0005,"epochs":10}]})");
  EXPECT_EQ(options.lr_unit, LrUnit::kAbsolute);
  EXPECT_EQ(options.axes.lrs, std::vector<double>{5e-4});
  EXPECT_EQ(options.axes.epochs, SweepOptions().axes.epochs);  // a list was given
}

TEST(EarlierDefaults, OfASweepGiveWayToWhatIsGiven) {
  SweepOptions options;
  options.given = {"lrs"};
  keep_earlier_defaults(options, R"({"settings":{},"cells":[{"lr":0.0005,"epochs":20}]})");
  EXPECT_EQ(options.lr_unit, LrUnit::kResidual);
  EXPECT_EQ(options.axes.lrs, SweepOptions().axes.lrs);
  EXPECT_EQ(options.axes.epochs, std::vector<std::int64_t>{20});
}

TEST(EarlierDefaults, NeedAPlan) {
  for (const char* none : {"", "[]", R"({"cells":[]})"}) {
    SweepOptions options;
    keep_earlier_defaults(options, none);
    EXPECT_EQ(options.axes.lrs, SweepOptions().axes.lrs) << none;
  }
}

}  // namespace
}  // namespace bipo
