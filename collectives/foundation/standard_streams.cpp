#include "collectives/foundation/standard_streams.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {

void prepare_standard_streams() {
  // Each message would flush standard output, and drop the reason why that cannot be written.
  std::cerr.tie(nullptr);
  // Read-only, so that a write to standard output is an error; what goes to standard error is lost.
  constexpr int kFlags[] = {O_RDONLY, O_RDONLY, O_WRONLY};
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open() returns the lowest number that is free.
    if (::fcntl(stream, F_GETFD) < 0 && ::open("/dev/null", kFlags[stream]) != stream) {
      std::abort();
    }
  }
  sigset_t closed_pipe;
  sigemptyset(&closed_pipe);
  sigaddset(&closed_pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &closed_pipe, nullptr);
}

namespace {

[[noreturn]] void refuse_output(int code) {
  throw EnvironmentError(
      fmt::format("standard output cannot be written{}: what the command prints is incomplete",
                  code == 0 ? "" : ": " + std::generic_category().message(code)));
}

}  // namespace

void write_standard_output(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    refuse_output(errno);
  }
}

void flush_standard_output() {
  errno = 0;
  std::cout.flush();
  const bool is_flushed = std::fflush(stdout) == 0;
  const int code = errno;
  if (std::cout && is_flushed && std::ferror(stdout) == 0) {
    return;
  }
  refuse_output(code);
}

}  // namespace bipo
