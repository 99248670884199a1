#include "launcher/commands/lone_process.hpp"

#include "collectives/foundation/host_name.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/settings/version.hpp"

namespace bipo {

void describe_lone_process(JobAttributes& attributes) {
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc = utc_text();
  attributes.world_size = 1;
  attributes.dp = 1;
  attributes.tp = 1;
  attributes.backend = "none";
  attributes.hosts = host_name();
}

}  // namespace bipo
