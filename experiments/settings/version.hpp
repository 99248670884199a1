// The program's version and how it was built; the values come from the build.
#pragma once

namespace bipo {

extern const char* const kProgramVersion;  // "0.1.0"
extern const char* const kGitCommit;  // commit of the source tree, "unknown" outside a checkout
extern const bool kHaveCuda;          // linked with CUDA and NCCL

}  // namespace bipo
