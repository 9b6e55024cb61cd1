# The ranks of a job: how many, where they meet, starting them and passing signals on.
# shellcheck shell=bash

# GPUs that the job has on each node.
agehpc_gpus_per_node() {
    local gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-0}}
    echo "${gpus##*:}" # without the type in a100:4
}

# CPUs that the job has on its smallest node: 4 of "8(x2),4".
agehpc_cpus_per_node() { tr ',' '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | sed -n 1p; }

# Sets AGEHPC_GPUS (a node), AGEHPC_TASKS (ranks a node) and AGEHPC_CPUS (CPUs a rank).
agehpc_layout() {
    local cpus
    AGEHPC_GPUS=$(agehpc_gpus_per_node)
    cpus=$(agehpc_cpus_per_node)
    if ((AGEHPC_GPUS > 0)); then
        AGEHPC_TASKS=$AGEHPC_GPUS
    else
        AGEHPC_TASKS=${SLURM_NTASKS_PER_NODE:-1}
    fi
    AGEHPC_CPUS=$((cpus / AGEHPC_TASKS))
    if ((AGEHPC_CPUS == 0)); then
        agehpc_fail "$cpus CPUs a node for $AGEHPC_GPUS GPUs, but every GPU's process needs a CPU;" \
            "submit with --ntasks-per-node=$AGEHPC_GPUS --cpus-per-task=N, or with --exclusive"
    fi
    agehpc_say "$((SLURM_NNODES * AGEHPC_TASKS)) ranks on $SLURM_NNODES nodes" \
        "($SLURM_JOB_NODELIST), a rank has $AGEHPC_CPUS CPUs and $((AGEHPC_GPUS > 0)) GPUs"
}

# Sets the same for one task that has all of one node.
agehpc_layout_node() {
    if ((SLURM_NNODES > 1)); then agehpc_fail "one node is wanted: submit with --nodes=1"; fi
    agehpc_layout_nodes
}

# Sets the same for a task on each node that has all of it.
agehpc_layout_nodes() {
    local where="$SLURM_JOB_NODELIST"
    AGEHPC_GPUS=$(agehpc_gpus_per_node)
    AGEHPC_TASKS=1
    AGEHPC_CPUS=$(agehpc_cpus_per_node)
    if ((SLURM_NNODES > 1)); then where="each of $SLURM_NNODES nodes ($where)"; fi
    agehpc_say "one task on $where has $AGEHPC_CPUS CPUs and $AGEHPC_GPUS GPUs"
}

# Exports where the ranks meet. They work out their numbers themselves, from srun's variables.
agehpc_rendezvous() {
    local first address
    # Read to the end: who writes into a pipe that `head` has closed ends the script, with code 141.
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    # What Slurm itself calls the node by: its name need not resolve.
    address=$(scontrol show node -o "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2) || address=$first
    export MASTER_ADDR=${AGEHPC_MASTER_ADDR:-$address}
    # Left over from a torchrun in the submitting shell they would win over srun's.
    unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE
    agehpc_say "the ranks meet at $MASTER_ADDR ($first)"
}

# Starts the ranks and waits for them; their exit code is left in AGEHPC_CODE, what asked for an
# end in AGEHPC_ASKED.
agehpc_ranks() {
    local tasks=$AGEHPC_TASKS cpus=$AGEHPC_CPUS between=("$AGEHPC_HOME/slurm/lib/rank.sh") restart=""
    local local_folder=${AGEHPC_LOCAL_TMP:-/tmp}/agehpc-$SLURM_JOB_ID
    case ${AGEHPC_LAUNCHER:-srun} in
    srun) ;;
    torchrun)
        between=("${AGEHPC_PYTHON[@]}" -m torch.distributed.run --nnodes="$SLURM_NNODES"
            --nproc-per-node="$tasks" --master-addr="$MASTER_ADDR"
            --master-port="$((20000 + SLURM_JOB_ID % 20000))" --no-python "${between[@]}")
        cpus=$((cpus * tasks)) tasks=1
        ;;
    *) agehpc_fail "AGEHPC_LAUNCHER=$AGEHPC_LAUNCHER: choose srun or torchrun" ;;
    esac
    # Rank 0 shares a node with a batch script, but not with a shell of salloc.
    if [[ -n ${SLURMD_NODENAME:-} ]]; then restart=$local_folder.restart; fi
    rm -f "$restart" # a start that was killed may have left it
    agehpc_say "command:$(printf ' %q' "$@" | agehpc_redact)"
    AGEHPC_LOCAL=$local_folder AGEHPC_RESTART_FILE=$restart srun \
        --nodes="$SLURM_NNODES" --ntasks="$((SLURM_NNODES * tasks))" \
        --ntasks-per-node="$tasks" --cpus-per-task="$cpus" \
        --kill-on-bad-exit=1 --mpi=none --input=none "${AGEHPC_SRUN[@]}" \
        "$AGEHPC_HOME/slurm/lib/task.sh" "${AGEHPC_INSIDE[@]}" "${between[@]}" "$@" &
    AGEHPC_STEP=$!
    AGEHPC_ASKED=""
    AGEHPC_REMINDER=""
    trap 'agehpc_forward USR1' USR1
    trap 'agehpc_forward TERM' TERM
    # A trap ends `wait` early: only a step that is gone has an exit code.
    while :; do
        AGEHPC_CODE=0
        wait "$AGEHPC_STEP" || AGEHPC_CODE=$?
        if ! kill -0 "$AGEHPC_STEP" 2>/dev/null; then break; fi
    done
    if [[ -n $AGEHPC_REMINDER ]]; then kill "$AGEHPC_REMINDER" 2>/dev/null || true; fi
    # torchrun, asked to end, ends with a code of its own.
    if [[ -n $restart && -O $restart ]]; then
        rm -f "$restart"
        if ((AGEHPC_CODE == 0)) || [[ $AGEHPC_ASKED == TERM ]]; then AGEHPC_CODE=$AGEHPC_RESTART; fi
    fi
}

agehpc_forward() {
    AGEHPC_ASKED=$1
    agehpc_say "SIG$1: the ranks are asked to save and stop"
    kill "-$1" "$AGEHPC_STEP" 2>/dev/null || true
    # Ranks that do not train yet may not listen yet.
    if [[ $1 == USR1 && -z $AGEHPC_REMINDER ]]; then
        while sleep 5 && kill -USR1 "$AGEHPC_STEP" 2>/dev/null; do :; done &
        AGEHPC_REMINDER=$!
    fi
}
