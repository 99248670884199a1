// One process's view of the job: MPI's lifetime, the ranks, and how they share failures.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "collectives/topology.hpp"
#include "collectives/watch/watch.hpp"

namespace bipo {

// A failure that every rank knows of: all throw it, so that all end in order with `exit_code`.
class AgreedFailure : public std::runtime_error {
 public:
  AgreedFailure(const std::string& message, int exit_code, bool is_environment = false)
      : std::runtime_error(message), exit_code_(exit_code), is_environment_(is_environment) {}
  int exit_code() const { return exit_code_; }

  // Whether the machine, its files or a library failed, so that the same work may succeed later.
  bool is_environment() const { return is_environment_; }

 private:
  int exit_code_;
  bool is_environment_;
};

// One rank's communicators with the ranks that it trains with: all ranks of the job, or, if several
// cells are in flight, those of its cell.  `world` (all of these) and `node` (those on this rank's
// host) move host memory; `dp` and `tp` move the memory that holds the model.  `world` is declared
// first, so that the groups are freed before it.
struct Ranks {
  Topology topology;
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Communicator> node;
  std::unique_ptr<Communicator> dp;
  std::unique_ptr<Communicator> tp;
};

class Session {
 public:
  // Initialises MPI (MPI_THREAD_FUNNELED: only the main thread calls it).  With more ranks than
  // cores it lets MPI yield while waiting, unless the user has set that, because a rank that spins
  // starves the rank that it waits for.  With several ranks, every wait of one for the others is
  // watched; a warning goes to standard error where the ranks cannot ask each other whether they
  // work.  Collective over: world
  explicit Session(WatchSettings watch = {});

  // Finalises MPI, except while an exception unwinds: the other ranks may wait in a collective that
  // this one will never join.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this node
  int local_size() const;
  int node_cores() const;                         // on which any rank of this node may run
  const std::vector<std::string>& hosts() const;  // distinct, in rank order

  // Runs `work` on every rank; if it throws on any of them, every rank throws AgreedFailure with
  // the message of the lowest such rank (2 for a UserError, else 1).  `work` must not wait for
  // another rank, which may have thrown before it gets there: it communicates at most within a
  // group of this rank alone.  Collective over: world
  void together(const std::function<void()>& work);

  // The same among the ranks of `group` only.  Collective over: group
  void together(const std::function<void()>& work, Communicator& group);

  // Throws AgreedFailure (2) on every rank unless all pass the same `value`; `what` names the
  // value. Collective over: world
  void expect_same(std::uint64_t value, const std::string& what);

  // Returns the text of rank 0 on every rank.  Collective over: world
  std::string from_first(std::string text);

  // Returns when all ranks have called it.  Sleeps until then, and calls `meanwhile` now and then.
  // Collective over: world
  void wait_for_all(const std::function<void()>& meanwhile);

  // Makes the communicators for `topology`; dp and tp move the memory of `device`, which must be
  // selected before.  Collective over: world
  Ranks make_ranks(const Topology& topology, c10::Device device);

  // Ends the whole job.  For a rank that failed alone.
  [[noreturn]] void abort(int exit_code);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bipo
