// The attributes of run files and evaluation files that describe the job that wrote them.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/files/hdf5.hpp"

namespace bipo {

struct JobAttributes {
  std::string config;  // JSON object: every effective setting
  std::string program_version;
  std::string git_commit;
  std::string created_utc;  // ISO 8601
  std::string model;
  std::int64_t hidden_size = 0;  // D
  std::int64_t world_size = 0;
  std::int64_t dp = 0;
  std::int64_t tp = 0;
  std::string backend;
  std::string dtype;
  std::string hosts;  // comma separated
};

inline constexpr hdf5::Attribute<JobAttributes> kJobAttributes[] = {
    {"hidden_size", &JobAttributes::hidden_size, 1},
    {"world_size", &JobAttributes::world_size, 1},
    {"dp", &JobAttributes::dp, 1},
    {"tp", &JobAttributes::tp, 1},
    {"config", &JobAttributes::config},
    {"program_version", &JobAttributes::program_version},
    {"git_commit", &JobAttributes::git_commit},
    {"created_utc", &JobAttributes::created_utc},
    {"model", &JobAttributes::model},
    {"backend", &JobAttributes::backend},
    {"dtype", &JobAttributes::dtype},
    {"hosts", &JobAttributes::hosts},
};

}  // namespace bipo
