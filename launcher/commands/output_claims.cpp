#include "launcher/commands/output_claims.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "collectives/foundation/errors.hpp"

namespace bipo {

OutputClaims::OutputClaims(Job& job, const std::vector<std::filesystem::path>& files,
                           const std::function<void()>& check)
    : files_(files) {
  job.session().together([&] {
    if (!job.is_root()) {
      return;
    }
    release_.emplace([this] { claims_.clear(); });
    for (const std::filesystem::path& file : files_) {
      claims_.push_back(std::make_unique<OutClaim>(file));
    }
    check();
  });
}

bool OutputClaims::are_mine() const {
  return std::all_of(claims_.begin(), claims_.end(),
                     [](const auto& claim) { return claim->is_mine(); });
}

void OutputClaims::offer() {
  for (const std::unique_ptr<OutClaim>& claim : claims_) {
    claim->offer();
  }
}

void OutputClaims::require() const {
  for (std::size_t i = 0; i < claims_.size(); ++i) {
    if (!claims_[i]->is_mine()) {
      throw EnvironmentError(fmt::format(
          "--out {}: another job took it over; nothing was written to it", files_[i].string()));
    }
  }
}

}  // namespace bipo
