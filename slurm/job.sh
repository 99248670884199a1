# What the job scripts share: starts the program in the allocation, hands it the signal before the time limit,
# and queues the job again when it stopped with a checkpoint.
# shellcheck shell=bash

# shellcheck source=slurm/site.sh
. "$BIPO_SLURM_DIR/site.sh"

INTERRUPTED=75 # the program's exit code when it was stopped and can be continued

say() {
  printf '%(%F %T)T %s\n' -1 "$*"
}

quoted() {
  printf '%q ' "$@"
}

# start_ranks COMMAND...: in the background, the asked number on every node; sets `ranks`, the launcher's pid.
start_ranks() {
  local launcher
  case $BIPO_LAUNCHER in
    mpirun) launcher=(mpirun -N "$SLURM_NTASKS_PER_NODE") ;;
    # Slurm gives a step no CPUs of the job's own --cpus-per-task.  --wait ends the ranks that outlive a dead one;
    # --kill-on-bad-exit would kill those that still save when the first ends with exit code 75.
    srun) launcher=(srun --mpi=pmix --wait=60 --cpus-per-task="$SLURM_CPUS_PER_TASK") ;;
  esac
  launcher+=("${BIPO_LAUNCHER_OPTIONS[@]}")
  say "restart ${SLURM_RESTART_COUNT:-0} of at most $BIPO_MAX_RESTARTS, on $SLURM_JOB_NODELIST:" \
    "$(quoted "${launcher[@]}" "$@")"
  "${launcher[@]}" "$@" &
  ranks=$!
}

# The launcher passes SIGUSR1 on to every rank.
stop_ranks() {
  signals=$((signals + 1))
  say "$1: the program saves and ends"
  if [[ -n $ranks ]]; then
    kill -USR1 "$ranks" 2>/dev/null || true
  fi
}

# Sets `code` to the launcher's exit code.  A trapped signal ends `wait` early, with a code of its own.
wait_for_ranks() {
  local before
  while
    before=$signals code=0
    wait "$ranks" || code=$?
    ((signals != before))
  do :; done
}

queue_again() {
  local restarts=${SLURM_RESTART_COUNT:-0}
  if ((restarts >= BIPO_MAX_RESTARTS)); then
    say "stopped with a checkpoint after $restarts restarts, the most that BIPO_MAX_RESTARTS allows:" \
      "not queued again; submit it once more (a training run with --resume) to continue"
    return
  fi
  say "stopped with a checkpoint: queued again"
  scontrol requeue "$SLURM_JOB_ID"
}

# run_in_allocation ARGUMENT...: `bipo-dist ARGUMENT...` on all ranks, to its end.  Exits with the program's code,
# after the time limit's signal having queued the job again.
run_in_allocation() {
  local ranks='' signals=0 code near_limit=false ending=false
  trap 'near_limit=true; stop_ranks "the time limit is near"' USR1
  # Slurm is ending the job (scancel, preemption): what becomes of it is decided already.
  trap 'ending=true; stop_ranks "Slurm ends this job"' TERM
  start_ranks "$BIPO_PROGRAM" "$@"
  wait_for_ranks
  say "bipo-dist ended with exit code $code"
  if ((code == INTERRUPTED)) && $near_limit && ! $ending; then
    queue_again
  fi
  exit "$code"
}
