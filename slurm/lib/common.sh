# Sourced by the batch scripts; AGEHPC_HOME is set. One function a step of a job, agehpc_train last.
# shellcheck shell=bash

readonly AGEHPC_RESTART=85 # agehpc's exit code for: saved, run me again

agehpc_usage() {
    local kind=$1 recipe=$2
    cat <<USAGE
usage: sbatch [SBATCH FLAGS] slurm/train_$kind.sh [RECIPE] --data.shards DIR --out RUN [FLAGS]

Trains RECIPE (default $recipe) with one process per GPU, or per task where the job has no GPU.
Everything after the script's name goes to \`agehpc train\`; \`agehpc train --help\` lists the flags.

  sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=12:00:00 \\
      slurm/train_$kind.sh $recipe --data.shards shards --out runs/first
  sbatch --nodes=2 --ntasks-per-node=2 --cpus-per-task=8 slurm/train_$kind.sh ...   (CPU ranks)

Five minutes before the time limit the run is saved and the job requeued; the requeued job resumes
it, and so does submitting the same command again. The log is agehpc-$kind-JOBID.out.

Environment:
  AGEHPC_HOME          the agehpc folder, if you submit from elsewhere
  AGEHPC_VENV          virtual environment that holds agehpc (default AGEHPC_HOME/.venv, then PATH)
  AGEHPC_COMMAND       command to run in place of agehpc, such as "apptainer exec --nv x.sif agehpc"
  AGEHPC_SITE          settings from slurm/sites/NAME.sh (default: default)
  AGEHPC_LOCAL_TMP     folder on each node for temporary files and caches (default /tmp)
  AGEHPC_MASTER_ADDR   address of the first node, where Slurm's own does not serve
  AGEHPC_MAX_RESTARTS  how often a job may requeue itself (default 20)
USAGE
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

# One argument a line: the command that runs agehpc.
agehpc_command() {
    local venv=${AGEHPC_VENV:-$AGEHPC_HOME/.venv}
    if [[ -n ${AGEHPC_COMMAND:-} ]]; then
        tr ' ' '\n' <<<"$AGEHPC_COMMAND"
    elif [[ -x $venv/bin/agehpc ]]; then
        echo "$venv/bin/agehpc"
    elif [[ -n ${AGEHPC_VENV:-} ]] || ! command -v agehpc; then # command -v tells the path
        agehpc_fail "no agehpc command in $venv/bin${AGEHPC_VENV:-" or on PATH"};" \
            "install agehpc where every node sees it, and export AGEHPC_VENV=/path/to/venv"
    fi
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

# The newest complete checkpoint of a run; nothing if there is none.
agehpc_newest_checkpoint() {
    local manifest newest=""
    for manifest in "$1"/checkpoints/step-*/manifest.json; do
        if [[ -f $manifest ]]; then newest=$manifest; fi
    done
    echo "$newest"
}

# GPUs that the job has on each node.
agehpc_gpus_per_node() {
    local gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-0}}
    echo "${gpus##*:}" # without the type in a100:4
}

# CPUs that the job has on its smallest node: 4 of "8(x2),4".
agehpc_cpus_per_node() { tr ',' '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1; }

# Sets AGEHPC_TASKS (processes a node) and AGEHPC_CPUS (CPUs a process).
agehpc_layout() {
    local gpus cpus
    gpus=$(agehpc_gpus_per_node)
    cpus=$(agehpc_cpus_per_node)
    if ((gpus > 0)); then
        AGEHPC_TASKS=$gpus
    else
        AGEHPC_TASKS=${SLURM_NTASKS_PER_NODE:-1}
    fi
    AGEHPC_CPUS=$((cpus / AGEHPC_TASKS))
    if ((AGEHPC_CPUS == 0)); then
        agehpc_fail "$cpus CPUs a node for $gpus GPUs, but every GPU's process needs a CPU;" \
            "submit with --ntasks-per-node=$gpus --cpus-per-task=N, or with --exclusive"
    fi
    agehpc_say "$((SLURM_NNODES * AGEHPC_TASKS)) ranks on $SLURM_NNODES nodes" \
        "($SLURM_JOB_NODELIST), a rank has $AGEHPC_CPUS CPUs and $((gpus > 0)) GPUs"
}

# Exports where the ranks meet. They work out their numbers themselves, from srun's variables.
agehpc_rendezvous() {
    local first address
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # What Slurm itself calls the node by: its name need not resolve.
    address=$(scontrol show node -o "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2) || address=$first
    export MASTER_ADDR=${AGEHPC_MASTER_ADDR:-$address}
    # Left over from a torchrun in the submitting shell they would win over srun's.
    unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE
    agehpc_say "the ranks meet at $MASTER_ADDR ($first)"
}

# Starts the ranks and waits for them; their exit code is left in AGEHPC_CODE, what asked for an
# end in AGEHPC_ASKED.
agehpc_run() {
    local local_folder=${AGEHPC_LOCAL_TMP:-/tmp}/agehpc-$SLURM_JOB_ID restart=""
    # Rank 0 shares a node with a batch script, but not with a shell of salloc.
    if [[ -n ${SLURMD_NODENAME:-} ]]; then restart=$local_folder.restart; fi
    rm -f "$restart" # a start that was killed may have left it
    agehpc_say "command:$(printf ' %q' "$@" | agehpc_redact)"
    AGEHPC_LOCAL=$local_folder AGEHPC_RESTART_FILE=$restart srun \
        --nodes="$SLURM_NNODES" --ntasks="$((SLURM_NNODES * AGEHPC_TASKS))" \
        --ntasks-per-node="$AGEHPC_TASKS" --cpus-per-task="$AGEHPC_CPUS" \
        --kill-on-bad-exit=1 --mpi=none --input=none \
        "$AGEHPC_HOME/slurm/lib/task.sh" "$@" &
    AGEHPC_STEP=$!
    AGEHPC_ASKED=""
    trap 'agehpc_forward USR1' USR1
    trap 'agehpc_forward TERM' TERM
    # A trap ends `wait` early: only a step that is gone has an exit code.
    while :; do
        AGEHPC_CODE=0
        wait "$AGEHPC_STEP" || AGEHPC_CODE=$?
        if ! kill -0 "$AGEHPC_STEP" 2>/dev/null; then break; fi
    done
    if [[ -n $restart && -f $restart ]]; then
        rm -f "$restart"
        if ((AGEHPC_CODE == 0)); then AGEHPC_CODE=$AGEHPC_RESTART; fi
    fi
}

agehpc_forward() {
    AGEHPC_ASKED=$1
    agehpc_say "SIG$1: the ranks are asked to save and stop"
    kill "-$1" "$AGEHPC_STEP" 2>/dev/null || true
}

# Puts the job back into the queue if that is of use, and says what happened.
agehpc_finish() {
    local before=$1 after=$2 starts=$((${SLURM_RESTART_COUNT:-0} + 1))
    local most=${AGEHPC_MAX_RESTARTS:-20}
    if ((AGEHPC_CODE == 0)); then
        agehpc_say "done"
    elif ((AGEHPC_CODE != AGEHPC_RESTART)); then
        agehpc_say "failed with exit code $AGEHPC_CODE"
    elif [[ $AGEHPC_ASKED == TERM ]]; then
        agehpc_say "saved; the job was cancelled or preempted, so Slurm decides if it runs again"
    elif [[ $before == "$after" ]]; then
        agehpc_say "not requeued: no checkpoint is newer than at the start, and another start as" \
            "short as this one would not change that; raise --time"
    elif ((starts > most)); then
        agehpc_say "saved; not requeued: $starts starts, AGEHPC_MAX_RESTARTS=$most;" \
            "submit the same command to go on"
    else
        agehpc_say "saved; requeued for start $((starts + 1)) of at most $((most + 1))"
        if scontrol requeue "$SLURM_JOB_ID"; then
            # Slurm ends this script now. An exit of its own could be taken for the next start's.
            trap - USR1 TERM
            sleep 60
        fi
        agehpc_say "Slurm did not requeue the job; submit the same command to go on"
    fi
    exit "$AGEHPC_CODE"
}

# agehpc_train KIND DEFAULT_RECIPE [RECIPE] [FLAGS]: the whole job.
agehpc_train() {
    local kind=$1 recipe=$2 argument out before site
    shift 2
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            agehpc_usage "$kind" "$recipe"
            exit 0
        fi
    done
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        agehpc_fail "this is a batch script, and no Slurm job runs here; submit it:" \
            "sbatch --nodes=2 slurm/train_$kind.sh$( (($#)) && printf ' %q' "$@")" \
            $'\nwithout Slurm: agehpc train RECIPE --data.shards DIR --out RUN'
    fi
    if (($# == 0)) || [[ $1 == -* ]]; then set -- "$recipe" "$@"; fi
    site=$AGEHPC_HOME/slurm/sites/${AGEHPC_SITE:-default}.sh
    if [[ ! -f $site ]]; then
        agehpc_fail "AGEHPC_SITE=${AGEHPC_SITE:-}: no file $site; copy slurm/sites/default.sh to it"
    fi
    # shellcheck source=/dev/null
    source "$site"

    agehpc_say "job $SLURM_JOB_ID ($SLURM_JOB_NAME), start $((${SLURM_RESTART_COUNT:-0} + 1))"
    agehpc_layout
    agehpc_rendezvous
    local command text
    text=$(agehpc_command)
    mapfile -t command <<<"$text"
    out=$(agehpc_out "$@")
    before=$(agehpc_newest_checkpoint "$out")
    agehpc_run "${command[@]}" train "$@"
    agehpc_finish "$before" "$(agehpc_newest_checkpoint "$out")"
}
