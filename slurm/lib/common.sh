# Sourced by the batch scripts; AGEHPC_HOME is set. `agehpc_begin` first, then what the job is for.
# shellcheck shell=bash

readonly AGEHPC_RESTART=85 # agehpc's exit code for: saved, run me again
readonly AGEHPC_LOST=75    # and for: another rank or its node is gone

: "${AGEHPC_HOME:?}"
# shellcheck source=slurm/lib/environment.sh
source "$AGEHPC_HOME/slurm/lib/environment.sh"
# shellcheck source=slurm/lib/ranks.sh
source "$AGEHPC_HOME/slurm/lib/ranks.sh"
# shellcheck source=slurm/lib/finish.sh
source "$AGEHPC_HOME/slurm/lib/finish.sh"

# What the usage of every script ends with.
agehpc_usage_environment() {
    cat <<'USAGE'

Environment:
  AGEHPC_HOME          the agehpc folder, if you submit from elsewhere
  AGEHPC_SITE          settings from slurm/sites/NAME.sh (default: default)
  AGEHPC_ENVIRONMENT   where agehpc is installed: path (it is on PATH), venv, pyxis,
                       apptainer (default: venv where there is one, else path)
  AGEHPC_VENV          the virtual environment (default AGEHPC_HOME/.venv)
  AGEHPC_IMAGE         image of the container: for pyxis a .sqsh or registry name, else a .sif
  AGEHPC_MOUNTS        folders that it sees besides the run, the submit folder and AGEHPC_HOME, with
                       commas between them
  AGEHPC_COMMAND       command to run in place of agehpc, there
  AGEHPC_LAUNCHER      srun (one task a rank) or torchrun (one task a node); default srun
  AGEHPC_LOCAL_TMP     folder on each node for temporary files and caches (default /tmp)
  AGEHPC_MASTER_ADDR   address of the first node, where Slurm's own does not serve
  AGEHPC_MAX_RESTARTS  how often a job may requeue itself (default 20)
  AGEHPC_MAX_CRASHES   how often ranks may be killed without a new checkpoint (default 3)
USAGE
}

agehpc_train_usage() {
    local kind=$1 recipe=$2
    cat <<USAGE
usage: sbatch [SBATCH FLAGS] slurm/train_$kind.sh [RECIPE] --data.shards DIR --out RUN [FLAGS]

Trains RECIPE (default $recipe) with one process per GPU, or per task where the job has no GPU.
Everything after the script's name goes to \`agehpc train\`; \`agehpc train --help\` lists the flags.

  sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=12:00:00 \\
      slurm/train_$kind.sh $recipe --data.shards shards --out runs/first
  sbatch --nodes=2 --ntasks-per-node=2 --cpus-per-task=8 slurm/train_$kind.sh ...   (CPU ranks)

Five minutes before the time limit the run is saved and the job requeued; the requeued job resumes
it, and so do \`sbatch RUN/submit.sh\`, with the code of this start, and submitting the same command
again. \`touch RUN/control/save\` saves, \`touch RUN/control/stop\` saves and ends the job. The log is
agehpc-$kind-JOBID.out.
USAGE
    agehpc_usage_environment
}

agehpc_say() { echo "agehpc: $*"; }

# Masks the credentials of URLs in quoted words: user, query, and all of a pipe: command.
agehpc_redact() {
    sed -E 's#(://)[^/[:space:]]*@#\1***@#g; s#(://[^[:space:]?]*)\\?\?[^[:space:]]*#\1?***#g
        s#pipe:(\\.|[^\[:space:]])*#pipe:***#g'
}

agehpc_fail() {
    echo "error: $*" >&2
    exit 2
}

# agehpc_begin SCRIPT [ARGUMENTS]: help, or the site's settings and the shape of the job.
# The script defines agehpc_usage.
agehpc_begin() {
    local script=$1 argument site
    shift
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            agehpc_usage
            exit 0
        fi
    done
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        agehpc_fail "this is a batch script, and no Slurm job runs here; submit it:" \
            "sbatch --nodes=2 $script$( (($#)) && printf ' %q' "$@")" \
            $'\nwithout Slurm: `agehpc --help` lists the commands'
    fi
    # What a job writes only its owner and group may change, whatever the shell that submitted it.
    umask "$(printf '%04o' $((8#$(umask) | 8#0002)))"
    if [[ -f /dev/stdout ]]; then chmod o-w /dev/stdout; fi
    site=$AGEHPC_HOME/slurm/sites/${AGEHPC_SITE:-default}.sh
    if [[ ! -f $site ]]; then
        agehpc_fail "AGEHPC_SITE=${AGEHPC_SITE:-}: no file $site; copy slurm/sites/default.sh to it"
    fi
    # shellcheck source=/dev/null
    source "$site"
    AGEHPC_RUN=""
}

# The value of --out among the arguments; nothing if there is none.
agehpc_out() {
    local previous="" out="" argument
    for argument in "$@"; do
        if [[ $previous == --out ]]; then out=$argument; fi
        if [[ $argument == --out=* ]]; then out=${argument#--out=}; fi
        previous=$argument
    done
    echo "$out"
}

# agehpc_train KIND DEFAULT_RECIPE [RECIPE] [FLAGS]: the whole job of slurm/train_KIND.sh.
agehpc_train() {
    local kind=$1 recipe=$2
    shift 2
    # shellcheck disable=SC2317 # called by agehpc_begin
    agehpc_usage() { agehpc_train_usage "$kind" "$recipe"; }
    agehpc_begin "slurm/train_$kind.sh" "$@"
    if (($# == 0)) || [[ $1 == -* ]]; then set -- "$recipe" "$@"; fi
    AGEHPC_RUN=$(agehpc_out "$@")
    agehpc_end_of_chain
    agehpc_layout >/dev/null
    agehpc_environment >/dev/null
    if [[ -z $AGEHPC_RUN ]]; then agehpc_fail "--out is not set: give the run directory"; fi
    agehpc_snapshot "$@"
}

# Goes on as RUN/submit.sh, which it writes with the code that is to run: a job that is requeued
# runs what it ran before, whatever has become of AGEHPC_HOME.
agehpc_snapshot() {
    local text words time
    time=$(scontrol show job -o "$SLURM_JOB_ID" | grep -o 'TimeLimit=[^ ]*' | cut -d= -f2)
    words=(--prepare --name "$SLURM_JOB_NAME" --nodes "$SLURM_NNODES" --cpus-per-task "$AGEHPC_CPUS")
    words+=(--partition "$SLURM_JOB_PARTITION" --time "$time")
    if [[ -n ${SLURM_JOB_ACCOUNT:-} ]]; then words+=(--account "$SLURM_JOB_ACCOUNT"); fi
    if ((AGEHPC_GPUS > 0)); then
        words+=(--gpus-per-node "$AGEHPC_GPUS")
    else
        words+=(--tasks-per-node "$AGEHPC_TASKS")
    fi
    export AGEHPC_HOME
    text=$(agehpc_once "${AGEHPC_PROGRAM[@]}" launch "$@" "${words[@]}") || exit
    mapfile -t words <<<"$text"
    exec bash "${words[@]}"
}

# agehpc_resume RECIPE FLAGS: the whole job of RUN/submit.sh.
agehpc_resume() {
    local before
    # shellcheck disable=SC2317 # called by agehpc_begin
    agehpc_usage() {
        echo "usage: sbatch [SBATCH FLAGS] submit.sh [FLAGS]"
        echo "Starts or resumes the run of this folder; flags go to \`agehpc train\`."
        agehpc_usage_environment
    }
    agehpc_begin submit.sh "$@"
    AGEHPC_RUN=$(agehpc_out "$@")
    agehpc_end_of_chain
    agehpc_say "job $SLURM_JOB_ID ($SLURM_JOB_NAME), start $((${SLURM_RESTART_COUNT:-0} + 1))"
    agehpc_layout
    agehpc_rendezvous
    agehpc_environment
    before=$(agehpc_newest_checkpoint "$AGEHPC_RUN")
    agehpc_ranks "${AGEHPC_PROGRAM[@]}" train "$@"
    agehpc_finish "$before" "$(agehpc_newest_checkpoint "$AGEHPC_RUN")"
}
