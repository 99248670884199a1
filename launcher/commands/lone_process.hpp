// What files say of a job that was one process without a model.
#pragma once

#include "experiments/files/job_attributes.hpp"

namespace bipo {

// Sets version, time, ranks, backend and host.
void describe_lone_process(JobAttributes& attributes);

}  // namespace bipo
