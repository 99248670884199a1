// The job as one process sees it: MPI's lifetime, the ranks, and how failures are shared among
// them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/topology.hpp"

namespace bipo {

// A failure that every rank knows of: all throw it, so that all can end in order with `exit_code`.
class AgreedFailure : public std::runtime_error {
 public:
  AgreedFailure(const std::string& message, int exit_code)
      : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

// Exit codes of the program.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitBadInput = 2;
inline constexpr int kExitInterrupted = 75;

// The communicators of one rank among those that train together: all ranks of the job, or, where
// several cells are in flight, those of its cell.  `world` (all of them) and `node` (those of this
// rank's host) move host memory; `dp` and `tp` move the memory the model lives in.  Declared world
// first: groups are freed before it.
struct Ranks {
  Topology topology;
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Communicator> node;
  std::unique_ptr<Communicator> dp;
  std::unique_ptr<Communicator> tp;
};

class Session {
 public:
  // Initialises MPI (MPI_THREAD_FUNNELED: only the main thread calls it).  Under more ranks than
  // cores it asks MPI to yield while waiting, unless the user set that, because a rank that spins
  // starves the rank it waits for. Collective over: world
  Session();

  // Finalises MPI, except while an exception unwinds: the other ranks may be waiting in a
  // collective that this one will never join.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this node
  int local_size() const;
  int node_cores() const;                         // that any rank of this node may run on
  const std::vector<std::string>& hosts() const;  // distinct, in rank order

  // Runs `work` on every rank; when it throws on any of them, every rank throws AgreedFailure with
  // the message of the lowest such rank (2 for a UserError, else 1).  `work` must not communicate.
  // Collective over: world
  void together(const std::function<void()>& work);

  // The same among the ranks of `group` only.  Collective over: group
  void together(const std::function<void()>& work, Communicator& group);

  // Throws AgreedFailure (2) on every rank unless all pass the same `value`; `what` says what
  // differs. Collective over: world
  void expect_same(std::uint64_t value, const std::string& what);

  // The text of rank 0 on every rank.  Collective over: world
  std::string from_first(std::string text);

  // Returns when all ranks have called it, without keeping a core busy meanwhile; `meanwhile` is
  // called now and then.  Collective over: world
  void wait_for_all(const std::function<void()>& meanwhile);

  // Communicators for `topology`, moving CUDA memory for dp and tp when `cuda` (the device must
  // have been selected).  Collective over: world
  Ranks make_ranks(const Topology& topology, bool cuda);

  // Takes the whole job down.  For a rank that failed alone.
  [[noreturn]] void abort(int exit_code);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bipo
