#!/usr/bin/env bash
# Sets everything up on Debian 12, then trains a steering vector on the sample data under mpirun.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
  cat <<'TEXT'
Usage: launcher/quickstart.sh [--cuda] [--ranks N]

Installs what is missing, builds bipo-dist, fetches SmolLM2-135M-Instruct (GGUF), trains a steering vector
on datasets/sample under mpirun and makes a report of it. Run it again at any time: what is there is kept, and
each run writes new files runs/quickstart-NNN.h5 and .html.

  --cuda     build the CUDA and NCCL program (the default where nvidia-smi finds a GPU)
  --ranks N  MPI ranks; default: two, or fewer where there are fewer cores (GPUs, if it runs on them)
  --help     this text

Downloads and environments are kept in $BIPO_CACHE (default ~/.cache/bipo-dist).
TEXT
}

usage_error() {
  printf 'quickstart.sh: %s\n\n' "$1" >&2
  usage >&2
  exit 2
}

cuda=false
ranks=
while (($#)); do
  case $1 in
    --cuda) cuda=true ;;
    --ranks)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage_error "--ranks needs a number from 1, not '${2:-}'"
      ranks=$2
      shift
      ;;
    --help)
      usage
      exit 0
      ;;
    *) usage_error "unknown option '$1'" ;;
  esac
  shift
done

default_ranks() {
  if has_gpu; then
    smaller 2 "$(nvidia-smi -L | wc -l)"
  else
    smaller 2 "$(nproc)"
  fi
}

next_run_file() {
  local number=1
  while [[ -e $(printf 'runs/quickstart-%03d.h5' "$number") ]]; do
    number=$((number + 1))
  done
  printf 'runs/quickstart-%03d.h5' "$number"
}

# Few cores: ranks that spin or are bound to one core would starve each other.
prepare_mpi() {
  export OMPI_MCA_mpi_yield_when_idle=1
  if ((EUID == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

# make_report PAGE: a run without a page is a success, too.
make_report() {
  if ! is_venv_whole full && ! (ensure_venv report); then
    say "no report: its Python packages could not be installed; bipo-dist report makes it later"
    return 1
  fi
  BIPO_CACHE=$BIPO_CACHE "$build/bipo-dist" report "$out" --out "$1" >/dev/null \
    || { say "no report; the reason stands above"; return 1; }
}

# The printed commands work when pasted into the shell that started this script, in whatever folder.
print_next_steps() {
  local place='' python='' name
  [[ $started_in -ef $BIPO_SOURCE ]] || place=$BIPO_SOURCE/
  for name in report full; do
    ! is_venv_whole "$name" || python=$BIPO_CACHE/venv-$name
  done
  if [[ -n ${page:-} ]]; then
    printf '\nThe report is %s. Open it in a browser.' "$place$page"
  fi
  printf '\nThe run file is %s. To look at it:\n' "$place$out"
  printf '  %q inspect %q\n' "$place$build/bipo-dist" "$place$out"
  if [[ -n $python ]]; then
    printf "  %q -c 'import h5py, pandas, sys; print(pandas.DataFrame(h5py.File(sys.argv[1])[\"evals\"][:]).to_string())' %q\n" \
      "$python/bin/python" "$place$out"
  fi
}

started_in=$PWD
cd "$BIPO_SOURCE"
install_packages "${BUILD_PACKAGES[@]}"
ensure_venv cpu
ensure_model
if $cuda || has_gpu; then
  build="build-cuda"
  ensure_venv full
  configure_cuda
else
  build="build"
  configure_release
fi
build_targets "$build" bipo-dist

prepare_mpi
ranks=${ranks:-$(default_ranks)}
mpi_options=(-np "$ranks" --bind-to none)
if ((ranks > $(nproc))); then
  mpi_options+=(--oversubscribe)
fi
mkdir -p runs
out=$(next_run_file)
command=(mpirun "${mpi_options[@]}" "$build/bipo-dist" train --model "$BIPO_MODEL"
  --train datasets/sample/train.csv --test datasets/sample/test.csv --layer 15
  --lr-unit residual --lr 3e-3 --warmup-steps 10 --epochs 3 --batch-size 4 --out "$out")
say "${command[*]}"
status=0
run_ranks "${command[@]}" || status=$?

if ((status == 75)); then
  say "stopped with a checkpoint; this continues: $(printf '%q ' "${command[@]}")--resume"
fi
page=
if ((status == 0)) && make_report "${out%.h5}.html"; then
  page=${out%.h5}.html
fi
if [[ -e $out ]]; then
  print_next_steps
fi
exit "$status"
