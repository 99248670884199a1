#include "experiments/progress/stop_signals.hpp"

#include <csignal>

namespace bipo {
namespace {

volatile std::sig_atomic_t received = 0;

void take_note(int) {
  received = 1;
}

void install(int signal, int flags) {
  struct sigaction action {};
  action.sa_handler = take_note;
  sigemptyset(&action.sa_mask);
  // Interrupted system calls resume by themselves: the loop checks the flag when it is ready.
  action.sa_flags = SA_RESTART | flags;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_stop_signals() {
  install(SIGUSR1, 0);
  install(SIGTERM, 0);
  install(SIGINT, static_cast<int>(SA_RESETHAND));
}

bool stop_signal_received() {
  return received != 0;
}

}  // namespace bipo
