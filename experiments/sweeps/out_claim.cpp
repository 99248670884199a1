#include "experiments/sweeps/out_claim.hpp"

#include <fmt/format.h>

#include <chrono>
#include <iostream>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

using Clock = std::chrono::steady_clock;

constexpr const char* kName = "job";

// How long an owner that was just killed, or was told to end, may take to be gone.
constexpr std::chrono::seconds kPatience{5};
constexpr std::chrono::milliseconds kPoll{100};

fs::path claim_folder(const fs::path& out) {
  const fs::path file = written_path(out);
  return file.parent_path() / fmt::format(".{}.claim", file.filename().string());
}

[[noreturn]] void refuse(const fs::path& out, const ClaimSign& sign) {
  throw UserError(
      fmt::format("--out {}: {} is writing it; wait for that job, end it, or name another file",
                  out.string(), sign.owner));
}

// Waits for an owner to show whether it lives.
class Patience {
 public:
  Patience(fs::path out, const ClaimTimes& times) : out_(std::move(out)), times_(times) {}

  // Throws UserError where it is at its end.
  void spend(const ClaimSign& sign) {
    if (!first_seen_) {
      first_seen_ = sign.renewed;
      std::cerr << fmt::format(
          "--out {}: claimed by {}; waits {}\n", out_.string(), sign.owner,
          sign.is_proven ? "a few seconds for its end" : "for a sign of life, or of its end");
    }
    const auto waited = Clock::now() - begin_;
    if (sign.is_proven ? waited >= kPatience
                       : sign.renewed != first_seen_ || waited >= 2 * times_.dead_after) {
      refuse(out_, sign);
    }
  }

 private:
  fs::path out_;
  ClaimTimes times_;
  Clock::time_point begin_ = Clock::now();
  std::optional<fs::file_time_type> first_seen_;
};

std::unique_ptr<Claim> take(const fs::path& out, const fs::path& folder, const ClaimTimes& times) {
  Patience patience(out, times);
  while (true) {
    if (auto claim = Claim::take_in(folder, kName, times)) {
      return claim;
    }
    const ClaimSign sign = read_claim_in(folder, kName, times);
    if (sign.state == ClaimState::kLive) {
      patience.spend(sign);
    }
    std::this_thread::sleep_for(kPoll);
  }
}

}  // namespace

OutClaim::OutClaim(const fs::path& out, const ClaimTimes& times) : folder_(claim_folder(out)) {
  try {
    claim_ = take(out, folder_, times);
  } catch (const EnvironmentError& error) {
    std::error_code ignored;
    fs::remove(folder_, ignored);  // only where it is empty
    throw UserError(
        fmt::format("--out {}: cannot be written: {}; make room, or choose another place",
                    out.string(), error.what()));
  }
}

OutClaim::~OutClaim() {
  try {
    claim_->finish();
  } catch (const std::exception&) {
    // The next job finds that this process has ended.
  }
  std::error_code ignored;  // another job may hold the next claim
  fs::remove(folder_, ignored);
}

ClaimSign read_out_claim(const fs::path& out, const ClaimTimes& times) {
  return read_claim_in(claim_folder(out), kName, times);
}

}  // namespace bipo
