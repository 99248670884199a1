// The log of steps: what its lines hold, and what it keeps of a file that is there.
#include "experiments/training/step_log.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

StepRow row_of(std::int64_t step) {
  StepRow row;
  row.step = step;
  row.loss = 0.1 + static_cast<double>(step);
  row.seconds = 0.25;
  return row;
}

std::vector<StepRow> rows(std::int64_t count) {
  std::vector<StepRow> result;
  for (std::int64_t step = 0; step < count; ++step) {
    result.push_back(row_of(step));
  }
  return result;
}

StepProgress progress_of(const StepRow& row) {
  StepProgress progress;
  progress.step = row.step + 1;
  progress.total = 20;
  progress.epochs = 2;
  return progress;
}

class StepLogTest : public ::testing::Test {
 protected:
  StepLogTest()
      : path_(fs::path(::testing::TempDir()) / ("bipo-steps-" + std::to_string(getpid()))) {
    fs::remove(path_);
  }
  ~StepLogTest() override { fs::remove(path_); }

  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }

  std::string content() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  static std::string lines(std::int64_t first, std::int64_t last) {
    std::string text;
    for (std::int64_t step = first; step < last; ++step) {
      text += step_object(progress_of(row_of(step)), row_of(step)) + '\n';
    }
    return text;
  }

  static void add(StepLog& log, std::int64_t first, std::int64_t last) {
    for (std::int64_t step = first; step < last; ++step) {
      EXPECT_EQ(log.add(progress_of(row_of(step)), row_of(step)), "");
    }
  }

  const fs::path path_;
};

TEST(StepObject, HasAllDigitsAndNullForWhatIsNotFinite) {
  StepRow row = row_of(4);
  row.loss = 0.1 + 0.2;
  row.margin = std::numeric_limits<double>::quiet_NaN();
  row.grad_norm = std::numeric_limits<double>::infinity();
  row.sign = -1;
  StepProgress progress = progress_of(row);
  progress.epoch = 1;
  const std::string text = step_object(progress, row);
  EXPECT_NE(text.find("\"loss\":0.30000000000000004,"), std::string::npos) << text;
  const auto object = nlohmann::json::parse(text);
  EXPECT_EQ(object["step"], 5);
  EXPECT_EQ(object["total_steps"], 20);
  EXPECT_EQ(object["epoch"], 2);
  EXPECT_EQ(object["sign"], -1);
  EXPECT_TRUE(object["margin"].is_null());
  EXPECT_TRUE(object["grad_norm"].is_null());
}

TEST_F(StepLogTest, HasEachStepAtOnce) {
  StepLog log(path_, ExistingLog::kRefuse, {});
  add(log, 0, 1);
  EXPECT_EQ(content(), lines(0, 1));
  add(log, 1, 3);
  EXPECT_EQ(content(), lines(0, 3));
  EXPECT_EQ(log.steps(), 3);
}

TEST_F(StepLogTest, IsCutToTheStepsOfTheRun) {
  write(lines(0, 7));
  StepLog log(path_, ExistingLog::kContinue, rows(4));
  EXPECT_EQ(log.steps(), 4);
  add(log, 4, 6);
  EXPECT_EQ(content(), lines(0, 6));
}

TEST_F(StepLogTest, SaysHowManyStepsItLacks) {
  for (const std::string& torn :
       {std::string(), std::string("{\"step\":4,\"lo"), std::string("\0\0\0\n", 4), lines(9, 10)}) {
    write(lines(0, 3) + torn);
    StepLog log(path_, ExistingLog::kContinue, rows(6));
    EXPECT_EQ(log.steps(), 3);
    add(log, 3, 6);
    EXPECT_EQ(content(), lines(0, 6));
  }
}

TEST_F(StepLogTest, OfARunThatWasNeverSavedBeginsAgain) {
  write(lines(0, 3));
  const StepLog log(path_, ExistingLog::kContinue, {});
  EXPECT_EQ(content(), "");
}

TEST_F(StepLogTest, LeavesAFileOfSomethingElse) {
  for (const std::string& text :
       {std::string("notes\n"), std::string("{\"step\":1}\n"), lines(1, 3)}) {
    write(text);
    EXPECT_THROW(StepLog(path_, ExistingLog::kContinue, rows(2)), UserError) << text;
    EXPECT_THROW(StepLog(path_, ExistingLog::kContinue, {}), UserError) << text;
    EXPECT_THROW(StepLog(path_, ExistingLog::kRefuse, {}), UserError) << text;
    EXPECT_EQ(content(), text);
  }
  const StepLog replaced(path_, ExistingLog::kReplace, {});
  EXPECT_EQ(content(), "");
}

TEST_F(StepLogTest, EndsOnceWhereItCannotBeWritten) {
  StepLog log("/dev/full", ExistingLog::kRefuse, {});
  const std::string failure = log.add(progress_of(row_of(0)), row_of(0));
  EXPECT_NE(failure.find("/dev/full"), std::string::npos) << failure;
  EXPECT_NE(failure.find("No space left"), std::string::npos) << failure;
  EXPECT_EQ(log.add(progress_of(row_of(1)), row_of(1)), "");
  EXPECT_THROW(StepLog("/nowhere/log.jsonl", ExistingLog::kRefuse, {}), UserError);
}

}  // namespace
}  // namespace bipo
