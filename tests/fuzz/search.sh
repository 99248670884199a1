#!/usr/bin/env bash
# Builds the fuzz targets with clang in build-fuzz/ and lets each search for a bounded time.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../launcher/setup.sh"

FUZZ_PACKAGES=(clang libclang-rt-dev)
NOT_RUN=77

if [[ ${1:-} == --help ]]; then
  cat <<'TEXT'
Usage: tests/fuzz/search.sh [SECONDS [CTEST-ARGUMENT...]]

Each target searches for SECONDS (60); the further arguments select targets as ctest does, for example -R gguf.
An input that fails is kept as build-fuzz/tests/fuzz/TARGET-...: copy it to tests/fuzz/regressions/TARGET/.
TEXT
  exit 0
fi

# In a subshell, because install_packages ends the script where it cannot install.
if ! (install_packages "${BUILD_PACKAGES[@]}" "${FUZZ_PACKAGES[@]}"); then
  echo "fuzz targets: not run (clang with libFuzzer is not there and cannot be installed)"
  exit "$NOT_RUN"
fi
ensure_venv cpu
ensure_configured fuzz build-fuzz cpu -DBIPO_FUZZ_SECONDS="${1:-60}"
build_targets build-fuzz fuzz_targets
exec ctest --test-dir "$BIPO_SOURCE/build-fuzz" --output-on-failure --no-tests=error -L '^fuzz$' "${@:2}"
