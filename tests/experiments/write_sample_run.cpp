// Writes the sample run to a file, once or again and again until it is killed.
//
//   write_sample_run FILE STEPS           one save
//   write_sample_run FILE STEPS forever   saves with 0, 1, ..., STEPS - 1 steps, then from 0 again
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "tests/experiments/sample_run.hpp"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "write_sample_run FILE STEPS [forever]\n";
    return 2;
  }
  try {
    const std::string path = argv[1];
    const std::int64_t steps = std::stoll(argv[2]);
    bipo::remove_stale_temps(path);
    if (argc == 3) {
      bipo::write_run_file(path, bipo::sample_run(steps));
      return 0;
    }
    for (std::int64_t round = 0;; ++round) {
      bipo::write_run_file(path, bipo::sample_run(round % steps));
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
