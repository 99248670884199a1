# Writes OUTPUT with the program's version and the checkout's commit; run at every build so that the
# commit is true, touching the file only when it changed.
execute_process(COMMAND git -C "${SOURCE_DIR}" rev-parse HEAD
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE rc ERROR_QUIET)
if(NOT rc EQUAL 0)
  set(commit "unknown")
else()
  execute_process(COMMAND git -C "${SOURCE_DIR}" status --porcelain --untracked-files=no
                  OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    string(APPEND commit "-dirty")
  endif()
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT [[
#include "experiments/settings/version.hpp"

namespace bipo {

const char* const kProgramVersion = "@VERSION@";
const char* const kGitCommit = "@commit@";
const bool kHaveCuda = @HAVE_CUDA@;

}  // namespace bipo
]] @ONLY)
