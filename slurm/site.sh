# Reads, completes and checks the site's settings, for submit.sh and for its jobs.
# shellcheck shell=bash disable=SC2034

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# require_number SETTING MINIMUM
require_number() {
  [[ ${!1} =~ ^[0-9]+$ ]] || fail "$BIPO_SITE: $1='${!1}' is no whole number; correct it"
  ((10#${!1} >= $2)) || fail "$BIPO_SITE: $1='${!1}' is less than $2; correct it"
}

default_program() {
  local folder=build
  if ((BIPO_GPUS_PER_NODE > 0)); then
    folder=build-cuda
  fi
  printf '%s/%s/bipo-dist' "$(dirname "$BIPO_SLURM_DIR")" "$folder"
}

load_modules() {
  if ((${#BIPO_MODULES[@]} == 0)); then
    return
  fi
  declare -F module >/dev/null \
    || fail "$BIPO_SITE: BIPO_MODULES names ${BIPO_MODULES[*]}, but this shell has no command 'module';" \
      "submit from a login shell that has it, or empty BIPO_MODULES"
  module load "${BIPO_MODULES[@]}" || fail "$BIPO_SITE: module load ${BIPO_MODULES[*]} failed; correct BIPO_MODULES"
}

# load_site: sets every BIPO_ setting from the file BIPO_SITE, and loads the modules.
load_site() {
  [[ -f $BIPO_SITE && -r $BIPO_SITE ]] \
    || fail "$BIPO_SITE: no such site file; copy $BIPO_SLURM_DIR/site.example.env there and edit the copy," \
      "or name another with --site"
  # What the file leaves out keeps the example's value.
  # shellcheck source=slurm/site.example.env
  . "$BIPO_SLURM_DIR/site.example.env"
  # shellcheck disable=SC1090
  . "$BIPO_SITE"
  require_number BIPO_NODES 1
  require_number BIPO_GPUS_PER_NODE 0
  require_number BIPO_RANKS_PER_NODE 1
  require_number BIPO_CPUS_PER_RANK 1
  require_number BIPO_SIGNAL_SECONDS 1
  require_number BIPO_MAX_RESTARTS 0
  [[ $BIPO_LAUNCHER == mpirun || $BIPO_LAUNCHER == srun ]] \
    || fail "$BIPO_SITE: BIPO_LAUNCHER='$BIPO_LAUNCHER' is neither mpirun nor srun; correct it"
  BIPO_PROGRAM=${BIPO_PROGRAM:-$(default_program)}
  load_modules
}

# analysis_python ARGUMENT...: the site's Python, with this checkout's analysis package.
analysis_python() {
  local package
  package=$(dirname "$BIPO_SLURM_DIR")/experiments/analysis
  PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH} "$BIPO_ANALYSIS_PYTHON" "$@"
}
