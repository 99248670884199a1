// Judges, while a rank waits in an operation, which of the group's other ranks it waits for, and
// whether they make progress.  Knows neither clock nor network: the caller tells what happens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "collectives/watch/peer_status.hpp"

namespace bipo {

// What is known of a rank for which this one may wait.
enum class PeerSign {
  kUnknown,  // not asked yet, or the answer may still come
  kArrived,  // alive, and in the operation or beyond it
  kSilent,   // gives no answer: stopped, dead, or its host is
  kIdle,     // answers, but its process uses no processor time: hangs in a file system, say
  kWorking,  // answers, and works
  kWaiting,  // answers, and waits in another operation
};

struct WaitLimits {
  double timeout = 600;  // seconds without progress after which a wait is over; 0: never
  double notice = 30;    // seconds after which it is told
  double tick = 1;       // seconds between calls of WaitJudgement::advance()
};

class WaitJudgement {
 public:
  // `own_rank` waits with `others` (world ranks) in operation number `begun` of the group `key`.
  // Where ranks `can_be_asked` is false, nothing is known of them, and every second counts as one
  // without progress.
  WaitJudgement(WaitLimits limits, int own_rank, std::vector<int> others, GroupCount operation,
                bool can_be_asked);

  // Time passes in which this process ran; one that was stopped does not count its stop.
  void advance(double seconds);

  // Returns the ranks to ask now: at most `most`, in turn.  Each of them counts as asked.
  std::vector<int> next_to_ask(std::size_t most);
  void hear(const PeerStatus& status);

  double waited() const { return waited_; }
  double quiet() const;
  bool knows_cause() const;

  // Whether it is time to tell the user; true once for each of the notices, whose distance doubles.
  bool takes_notice();
  bool is_over() const;

  // Names those that this rank waits for and what is known of them: "rank 1 on a: no sign of life".
  // Unless `all`, leaves out what another rank says: a lower one that waits in the same operation,
  // or the one that this rank waits for, which itself waits for another.
  std::string reasons(const std::function<std::string(int)>& name_of_rank, bool all) const;

  PeerSign sign_of(int rank) const;

 private:
  struct Peer {
    bool is_heard = false;
    PeerStatus last;         // where it is heard
    int unanswered = 0;      // questions since the last answer
    double since_asked = 0;  // seconds since the first of these
  };

  PeerSign sign_of(const Peer& peer) const;
  double quiet_of(const Peer& peer) const;
  bool is_missing(const Peer& peer) const;
  bool is_spokesman() const;
  std::string description_of(const Peer& peer) const;

  WaitLimits limits_;
  int own_rank_;
  GroupCount operation_;
  bool can_be_asked_;
  std::map<int, Peer> peers_;
  int last_asked_ = -1;
  double waited_ = 0;
  double next_notice_;
};

// Returns for instance "45 s", "10 min", "2.5 h".
std::string duration_text(double seconds);

}  // namespace bipo
