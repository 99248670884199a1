#include "collectives/watch/peer_socket.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <type_traits>
#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

enum class Kind : std::uint32_t { kQuestion = 1, kAnswer = 2 };

struct Header {
  JobSecret secret;
  Kind kind;
  std::int32_t from;  // world ranks
  std::int32_t to;
};

// A question is the header alone.
struct Answer {
  Header header;
  std::uint8_t waits;
  std::uint8_t knows_cause;
  double quiet;
  std::array<char, 64> activity;  // ends with a zero
  std::array<GroupCount, kMostGroups> groups;
};
static_assert(std::is_trivially_copyable_v<Answer>);

template <std::size_t Size>
void copy_text(const std::string& text, std::array<char, Size>& target) {
  target.fill('\0');
  std::copy_n(text.begin(), std::min(text.size(), Size - 1), target.begin());
}

template <std::size_t Size>
std::string text_of(const std::array<char, Size>& text) {
  return {text.begin(), std::find(text.begin(), text.end(), '\0')};
}

// Returns the addresses of this host's devices that are up, other than loopback.
std::array<std::uint32_t, 8> own_addresses() {
  std::array<std::uint32_t, 8> addresses{};
  std::size_t count = 0;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) {
    return addresses;
  }
  for (const ifaddrs* device = all; device != nullptr && count < addresses.size();
       device = device->ifa_next) {
    const bool is_usable = device->ifa_addr != nullptr && device->ifa_addr->sa_family == AF_INET &&
                           (device->ifa_flags & IFF_UP) != 0 &&
                           (device->ifa_flags & IFF_LOOPBACK) == 0;
    if (is_usable) {
      sockaddr_in address{};
      std::memcpy(&address, device->ifa_addr, sizeof(address));
      addresses[count++] = address.sin_addr.s_addr;
    }
  }
  ::freeifaddrs(all);
  return addresses;
}

sockaddr_in endpoint(std::uint32_t address, std::uint16_t port) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_addr.s_addr = address;
  result.sin_port = port;
  return result;
}

PeerStatus status_of(const Answer& answer) {
  PeerStatus status;
  status.rank = answer.header.from;
  status.waits = answer.waits != 0;
  status.knows_cause = answer.knows_cause != 0;
  status.quiet = answer.quiet;
  status.activity = text_of(answer.activity);
  status.groups = answer.groups;
  return status;
}

}  // namespace

JobSecret random_secret() {
  JobSecret secret{};
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    throw EnvironmentError(
        fmt::format("getrandom failed: {}", std::generic_category().message(errno)));
  }
  return secret;
}

PeerSocket::~PeerSocket() {
  if (handle_ >= 0) {
    ::close(handle_);
  }
}

PeerAddress PeerSocket::open(const std::string& host, bool only_this_host) {
  PeerAddress address;
  copy_text(host, address.host);
  const sockaddr_in wanted = endpoint(htonl(only_this_host ? INADDR_LOOPBACK : INADDR_ANY), 0);
  sockaddr_in bound{};
  socklen_t length = sizeof(bound);
  handle_ = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const bool is_open =
      handle_ >= 0 &&
      ::bind(handle_, reinterpret_cast<const sockaddr*>(&wanted), sizeof(wanted)) == 0 &&
      ::getsockname(handle_, reinterpret_cast<sockaddr*>(&bound), &length) == 0;
  if (!is_open) {
    return address;
  }
  if (!only_this_host) {
    address.ipv4 = own_addresses();
  }
  address.port = bound.sin_port;
  return address;
}

void PeerSocket::meet(std::vector<PeerAddress> peers, int own_rank, const JobSecret& secret) {
  peers_ = std::move(peers);
  own_rank_ = own_rank;
  secret_ = secret;
}

std::string PeerSocket::host_of(int rank) const {
  return text_of(peers_[static_cast<std::size_t>(rank)].host);
}

void PeerSocket::ask(int rank) const {
  const Header question{secret_, Kind::kQuestion, own_rank_, rank};
  const PeerAddress& peer = peers_[static_cast<std::size_t>(rank)];
  if (peer.host == peers_[static_cast<std::size_t>(own_rank_)].host) {
    send(&question, sizeof(question), endpoint(htonl(INADDR_LOOPBACK), peer.port));
  }
  for (const std::uint32_t address : peer.ipv4) {
    if (address != 0) {
      send(&question, sizeof(question), endpoint(address, peer.port));
    }
  }
}

void PeerSocket::receive(const std::function<PeerStatus()>& own,
                         const std::function<void(const PeerStatus&)>& hear) const {
  while (true) {
    Answer packet{};
    sockaddr_in from{};
    socklen_t length = sizeof(from);
    const ssize_t count = ::recvfrom(handle_, &packet, sizeof(packet), MSG_TRUNC,
                                     reinterpret_cast<sockaddr*>(&from), &length);
    if (count < 0) {
      return;
    }
    const Header& header = packet.header;
    const bool is_ours = count >= static_cast<ssize_t>(sizeof(Header)) &&
                         header.secret == secret_ && header.to == own_rank_ && header.from >= 0 &&
                         header.from < static_cast<int>(peers_.size());
    if (!is_ours) {
      continue;
    }
    if (header.kind == Kind::kQuestion && count == static_cast<ssize_t>(sizeof(Header))) {
      const PeerStatus status = own();
      Answer answer{};
      answer.header = {secret_, Kind::kAnswer, own_rank_, header.from};
      answer.waits = static_cast<std::uint8_t>(status.waits);
      answer.knows_cause = static_cast<std::uint8_t>(status.knows_cause);
      answer.quiet = status.quiet;
      copy_text(status.activity, answer.activity);
      answer.groups = status.groups;
      send(&answer, sizeof(answer), from);
    } else if (header.kind == Kind::kAnswer && count == static_cast<ssize_t>(sizeof(Answer))) {
      hear(status_of(packet));
    }
  }
}

void PeerSocket::send(const void* bytes, std::size_t count, const sockaddr_in& to) const {
  [[maybe_unused]] const ssize_t ignored = ::sendto(
      handle_, bytes, count, MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
}

}  // namespace bipo
