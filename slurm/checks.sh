# What submit.sh checks of a command before it submits: its options, its files, and that the program accepts it.
# shellcheck shell=bash
# Of submit.sh: command, the array arguments (the program's options), after, dry_run, and the site's settings.
# shellcheck disable=SC2154

# option_value NAME: what the command's options or their --config file say; nothing where they are silent.
option_value() {
  local i config
  for ((i = 0; i < ${#arguments[@]}; ++i)); do
    case ${arguments[i]} in
      "--$1")
        printf '%s' "${arguments[i + 1]:-}"
        return
        ;;
      "--$1="*)
        printf '%s' "${arguments[i]#*=}"
        return
        ;;
    esac
  done
  if [[ $1 != config ]]; then
    config=$(option_value config)
    if [[ -f $config ]]; then
      sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$config" | sed 's/[[:space:]]*$//'
    fi
  fi
}

has_flag() {
  [[ " ${arguments[*]} " == *" --$1 "* || $(option_value "$1") == true ]]
}

require_option() {
  [[ -n $(option_value "$1") ]] || fail "$command needs --$1; \`bipo-dist $command --help\` describes the options"
}

require_writable_parent() {
  local parent
  parent=$(dirname "$1")
  [[ -d $parent && -w $parent ]] \
    || fail "--out $1: $parent is no writable directory; make it, or name another place"
}

check_program() {
  [[ -f $BIPO_PROGRAM && -x $BIPO_PROGRAM ]] \
    || fail "$BIPO_PROGRAM: no such program; build it (jobs build nothing), or correct BIPO_PROGRAM in $BIPO_SITE"
  "$BIPO_PROGRAM" --version --verbose >/dev/null || fail "$BIPO_PROGRAM does not start; its message stands above"
}

# check_commands NAME...
check_commands() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null \
      || fail "no command '$name' here; submit from a login node that has it, or load it by BIPO_MODULES in $BIPO_SITE"
  done
}

# try_here: the program itself checks the job, with one rank and on the CPU: a login node offers no more.  What it
# says of this machine's speed is of no use here.
try_here() {
  local i kept=()
  ! has_flag dry-run \
    || fail "$command --dry-run trains nothing; \`bipo-dist $command --dry-run\` without Slurm shows what would be done"
  for ((i = 0; i < ${#arguments[@]}; ++i)); do
    case ${arguments[i]} in
      --tp | --dp | --device) i=$((i + 1)) ;;
      --tp=* | --dp=* | --device=*) ;;
      *) kept+=("${arguments[i]}") ;;
    esac
  done
  "$BIPO_PROGRAM" "$command" "${kept[@]}" --tp 1 --dp 1 --device cpu --dry-run \
    || fail "nothing is submitted; bipo-dist says above why"
}

check_train() {
  local out
  require_option out
  out=$(option_value out)
  require_writable_parent "$out"
  ! has_flag overwrite \
    || fail "--overwrite: a job that is queued again would begin anew each time; remove $out, and leave the option out"
  [[ ! -e $out ]] || has_flag resume \
    || fail "--out $out: exists already; continue it with --resume, remove it, or name another file"
  try_here >/dev/null
}

check_sweep() {
  require_option out
  require_writable_parent "$(option_value out)"
  try_here >&2
}

check_analysis_python() {
  [[ -z $BIPO_ANALYSIS_PYTHON ]] || analysis_python -c 'import bipo_analysis' \
    || fail "$BIPO_SITE: BIPO_ANALYSIS_PYTHON=$BIPO_ANALYSIS_PYTHON cannot import the analysis package; install" \
      "h5py, pandas and matplotlib there, or empty the setting and do without the report"
}

check_analyze() {
  local directory=${arguments[0]:-}
  ((${#arguments[@]} == 1)) || fail "analyze takes one sweep directory, not ${#arguments[@]} arguments"
  [[ -f $directory/plan.json || (-n $after && ! -e $directory) ]] \
    || fail "$directory: holds no plan.json, so it is no sweep directory; name one that \`bipo-dist sweep\` wrote"
}
