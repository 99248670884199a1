// Ranks that do not meet where the others wait, for silent_rank_test.py: under mpirun, with the way
// in which the last rank fails to come as the argument.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "collectives/communicator.hpp"
#include "collectives/foundation/activity.hpp"
#include "collectives/session.hpp"

namespace {

using namespace bipo;
using std::chrono::milliseconds;

void work_for(milliseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < deadline) {
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: watch_program works|sleeps|elsewhere TIMEOUT\n";
    return kExitBadInput;
  }
  const std::string way = argv[1];
  Session session({std::strtod(argv[2], nullptr), notice_seconds()});
  const Ranks ranks = session.make_ranks(Topology(session.size(), session.rank(), 1, std::nullopt),
                                         at::Device(at::kCPU));
  const bool is_last = session.rank() == session.size() - 1;
  set_activity("test", 7, 9);
  if (is_last && way == "works") {
    work_for(milliseconds(6000));
  } else if (is_last && way == "sleeps") {
    std::this_thread::sleep_for(std::chrono::minutes(10));
  } else if (is_last && way == "elsewhere") {
    ranks.dp->barrier();
  }
  ranks.world->barrier();
  if (session.rank() == 0) {
    std::cout << "all met" << std::endl;
  }
  return kExitDone;
}
