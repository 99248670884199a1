// Hears requests to stop, which arrive as signals: SIGTERM, SIGINT, SIGHUP, SIGPIPE and SIGUSR1.
//
// A thread of its own waits for them, so that the state is saved however long the step lasts that
// the main thread is in: mpirun may end its ranks a quarter of a second after the first signal.
// What follows depends on what the main thread does:
//   - at the start, and while an EndAtOnce lives, the process ends with the exit code of a stop;
//   - while a SaveAtStop lives, a further thread saves at once, and the main thread ends the work
//     when it next asks stop_signal_received();
//   - otherwise the main thread alone acts.
// A second SIGINT ends the process, after a save under way.  Further signals change nothing.
#pragma once

#include <functional>

namespace bipo {

// Blocks the signals in this thread, and so in all that it starts later, and begins to wait for
// them.  The process must have no other thread yet, and prepare_standard_streams() must have run: a
// SIGPIPE that is heard comes from another process, since the kernel's own for a write to a closed
// pipe goes to the thread that wrote, which has it blocked.  A SIGHUP or SIGPIPE that the parent
// process ignored, as nohup does, stays ignored.  `exit_code`: of a process that ends at once.
void hear_stop_signals(int exit_code);

// Ends the start: from now on the main thread acts on a stop.
void stop_when_asked();

// Returns whether one of the signals has arrived.
bool stop_signal_received();

// Lets a stop end the process at once, after `clean_up`, which runs on another thread; so does the
// constructor where the signal is here already.  Afterwards the main thread acts on a stop.
class EndAtOnce {
 public:
  explicit EndAtOnce(std::function<void()> clean_up);
  ~EndAtOnce();
  EndAtOnce(const EndAtOnce&) = delete;
  EndAtOnce& operator=(const EndAtOnce&) = delete;
};

// Lets a stop end the process only after this: while MPI starts, for example, since mpirun of Open
// MPI 4.1 may wait for ever for a rank that ends then.
class EndLater {
 public:
  EndLater();
  ~EndLater();
  EndLater(const EndLater&) = delete;
  EndLater& operator=(const EndLater&) = delete;
};

// Has `farewell` called, on another thread and after the clean-up, where a stop ends the process at
// once while this lives.  There is one at a time.
class BeforeEnd {
 public:
  explicit BeforeEnd(std::function<void()> farewell);
  ~BeforeEnd();
  BeforeEnd(const BeforeEnd&) = delete;
  BeforeEnd& operator=(const BeforeEnd&) = delete;
};

// Calls `save` once, on another thread, when a signal arrives.  What it throws is printed.  The
// destructor waits for a save under way; afterwards the main thread acts on a stop.
class SaveAtStop {
 public:
  explicit SaveAtStop(std::function<void()> save);
  ~SaveAtStop();
  SaveAtStop(const SaveAtStop&) = delete;
  SaveAtStop& operator=(const SaveAtStop&) = delete;
};

}  // namespace bipo
