// The main() of tests that read files without a seal: they start this program again for it.
#include <gtest/gtest.h>

#include "experiments/files/trial_process.hpp"

int main(int argc, char** argv) {
  if (const auto exit_code = bipo::run_trial_process(argc, argv)) {
    return *exit_code;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
