#!/usr/bin/env bash
# Checks a training run, a sweep or an analysis, submits it to Slurm and prints job ids and logs.
set -euo pipefail
BIPO_SLURM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=slurm/site.sh
. "$BIPO_SLURM_DIR/site.sh"
# shellcheck source=slurm/checks.sh
. "$BIPO_SLURM_DIR/checks.sh"

usage() {
  cat <<'TEXT'
Usage: slurm/submit.sh [OPTION...] train TRAIN-OPTION...
       slurm/submit.sh [OPTION...] sweep SWEEP-OPTION...
       slurm/submit.sh [OPTION...] analyze DIR

Checks what can be checked now, submits, and prints the job ids and where the logs are.

  train    one vector, by `bipo-dist train` with these options
  sweep    an array of tasks that all work the same --out, by `bipo-dist sweep` with these options; then the
           analysis, when all tasks have ended in whatever way
  analyze  the analysis alone: DIR/sweep.h5 and, where the site has a Python for it, DIR/report.html

  --site FILE      the site's settings (default: $BIPO_SITE, else slurm/site.env)
  --array N        a sweep's tasks (default 1)
  --no-analysis    the sweep alone
  --after JOB      start when that job has ended, in whatever way
  --sbatch OPTION  one more option of sbatch for the train or sweep job; may be repeated
  --dry-run        check, and print the sbatch lines instead of submitting
  --help           this text

A job that comes near its time limit saves, ends and is queued again. What ended for good with a checkpoint
(exit code 75) goes on when it is submitted once more, a training run then with --resume.
TEXT
}

# placement TIME_LIMIT: sets `placing`, the options for where, how long and after which job.
placement() {
  placing=(--time="$1")
  [[ -z $BIPO_PARTITION ]] || placing+=(--partition="$BIPO_PARTITION")
  [[ -z $BIPO_ACCOUNT ]] || placing+=(--account="$BIPO_ACCOUNT")
  [[ -z $after ]] || placing+=(--dependency="afterany:$after")
}

# training_job: sets `training`, the options of a job that runs the program on the site's nodes.
training_job() {
  placement "$BIPO_TIME_LIMIT"
  training=("${placing[@]}" --nodes="$BIPO_NODES" --ntasks-per-node="$BIPO_RANKS_PER_NODE"
    --cpus-per-task="$BIPO_CPUS_PER_RANK" --signal="B:USR1@$BIPO_SIGNAL_SECONDS")
  # Per node, not per task: a rank must see its neighbours' GPUs to reach their memory directly.
  ((BIPO_GPUS_PER_NODE == 0)) || training+=(--gpus-per-node="$BIPO_GPUS_PER_NODE")
  training+=("${BIPO_SBATCH_OPTIONS[@]}" "${sbatch_options[@]}")
}

# submit NAME NUMBER SBATCH_ARGUMENT...: sets `job` to the new job's id.  NUMBER, for the log's name, is %j, or
# %A_%a for an array.
submit() {
  local name=$1 number=$2
  local line=(sbatch --parsable --export=ALL --job-name="$name" --output="$BIPO_LOG_DIR/$name-$number.log" "${@:3}")
  if $dry_run; then
    printf 'BIPO_SLURM_DIR=%q BIPO_SITE=%q' "$BIPO_SLURM_DIR" "$BIPO_SITE"
    printf ' %q' "${line[@]}"
    printf '\n'
    job=JOB
    return
  fi
  mkdir -p "$BIPO_LOG_DIR"
  job=$("${line[@]}") || fail "sbatch refused $name; its message stands above"
  job=${job%%;*} # a federation's answer names the cluster too
  number=${number/\%[jA]/$job}
  printf 'job %s: %s, log %s\n' "$job" "$name" "$BIPO_LOG_DIR/$name-${number/\%a/*}.log"
}

# submit_analysis NAME DIR
submit_analysis() {
  placement "$BIPO_ANALYSIS_TIME_LIMIT"
  submit "$1-analysis" %j "${placing[@]}" "${BIPO_ANALYSIS_SBATCH_OPTIONS[@]}" \
    "$BIPO_SLURM_DIR/analyze.sbatch" "$2"
}

submit_train() {
  local name
  name=bipo-$(basename "$(option_value out)" .h5)
  # Before the first start too: where there is no run file, it begins anew.
  has_flag resume || arguments+=(--resume)
  training_job
  submit "$name" %j "${training[@]}" "$BIPO_SLURM_DIR/train.sbatch" "${arguments[@]}"
}

submit_sweep() {
  local out name
  out=$(option_value out)
  name=bipo-$(basename "$out")
  training_job
  submit "$name" %A_%a --array="0-$((tasks - 1))" "${training[@]}" \
    "$BIPO_SLURM_DIR/sweep.sbatch" "${arguments[@]}"
  if $analyze; then
    after=$job
    submit_analysis "$name" "$out"
  fi
}

tasks=1
after=
analyze=true
dry_run=false
sbatch_options=()
BIPO_SITE=${BIPO_SITE:-$BIPO_SLURM_DIR/site.env}

# parse_option OPTION [VALUE]: sets `taken`, the number of words that belong to it.
parse_option() {
  taken=1
  case $1 in
    --no-analysis) analyze=false ;;
    --dry-run) dry_run=true ;;
    --help)
      usage
      exit 0
      ;;
    --site | --array | --after | --sbatch)
      [[ -n ${2:-} ]] || fail "$1 needs a value; \`slurm/submit.sh --help\` lists the options"
      taken=2
      ;;&
    --site) BIPO_SITE=$2 ;;
    --array) tasks=$2 ;;
    --after) after=$2 ;;
    --sbatch) sbatch_options+=("$2") ;;
    *) fail "unknown option $1; \`slurm/submit.sh --help\` lists the options" ;;
  esac
}

while [[ ${1:-} == --* ]]; do
  parse_option "$@"
  shift "$taken"
done
command=${1:-}
arguments=("${@:2}")
[[ $command =~ ^(train|sweep|analyze)$ ]] \
  || fail "'$command' is no command; give train, sweep or analyze: \`slurm/submit.sh --help\` describes them"
[[ $tasks =~ ^[1-9][0-9]*$ ]] || fail "--array $tasks: give the number of tasks, a whole number from 1"
[[ $after =~ ^[0-9_:]*$ ]] || fail "--after $after: give the id of a job, as squeue shows it"

BIPO_SITE=$(realpath -m "$BIPO_SITE")
export BIPO_SLURM_DIR BIPO_SITE
load_site
check_program
$dry_run || check_commands sbatch
[[ $command == analyze ]] || check_commands "$BIPO_LAUNCHER"
[[ $command == train ]] || ! $analyze || check_analysis_python
"check_$command"
case $command in
  train) submit_train ;;
  sweep) submit_sweep ;;
  analyze) submit_analysis "bipo-$(basename "${arguments[0]}")" "${arguments[0]}" ;;
esac
