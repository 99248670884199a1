// Questions and answers between the ranks of a job, as UDP datagrams.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "collectives/watch/peer_status.hpp"

namespace bipo {

// Where a rank can be reached: plain bytes, so that ranks exchange it as it is.
struct PeerAddress {
  std::array<char, 64> host{};          // name, ends with a zero
  std::array<std::uint32_t, 8> ipv4{};  // network byte order; 0: unused
  std::uint16_t port = 0;               // network byte order
};

// Bytes that only the job's ranks know; what comes without them is not heard.
using JobSecret = std::array<std::uint8_t, 16>;

// Returns bytes of the kernel's random numbers.
JobSecret random_secret();

class PeerSocket {
 public:
  PeerSocket() = default;
  PeerSocket(const PeerSocket&) = delete;
  PeerSocket& operator=(const PeerSocket&) = delete;
  ~PeerSocket();

  // Opens a socket, on the loopback device alone where no rank is on another host, and returns
  // where it can be reached: at port 0, which nobody is, where there can be no socket.
  PeerAddress open(const std::string& host, bool only_this_host);

  // To be called before what follows.  `peers`: of all ranks, this one at `own_rank`.
  void meet(std::vector<PeerAddress> peers, int own_rank, const JobSecret& secret);

  int handle() const { return handle_; }  // for poll()
  std::string host_of(int rank) const;

  // Asks a rank for its status.  What cannot be sent is lost, like any datagram.
  void ask(int rank) const;

  // Takes what has come without waiting: answers questions by `own`, passes answers to `hear`.
  void receive(const std::function<PeerStatus()>& own,
               const std::function<void(const PeerStatus&)>& hear) const;

 private:
  void send(const void* bytes, std::size_t count, const sockaddr_in& to) const;

  int handle_ = -1;
  int own_rank_ = 0;
  std::vector<PeerAddress> peers_;
  JobSecret secret_{};
};

}  // namespace bipo
