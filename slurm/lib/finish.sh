# How a training job ends: the next start, or none, and why.
# shellcheck shell=bash

# The newest complete checkpoint of a run; nothing if there is none.
agehpc_newest_checkpoint() {
    local manifest newest=""
    for manifest in "$1"/checkpoints/step-*/manifest.json; do
        if [[ -f $manifest ]]; then newest=$manifest; fi
    done
    echo "$newest"
}

# How far a sweep is: another text once a trial has begun, ended or been saved.
agehpc_sweep_progress() {
    local state=$1/state.json
    if [[ ! -f $state ]]; then return; fi
    { cat "$state" && printf '%s\n' "$1"/trials/*/checkpoints/step-*/manifest.json; } | cksum
}

# Ends the job at once where an earlier job of its chain has left nothing to do.
agehpc_end_of_chain() {
    local mark=$AGEHPC_RUN/control/chain-${AGEHPC_CHAIN:-}
    if [[ -n ${AGEHPC_CHAIN:-} && -f $mark ]]; then
        agehpc_say "nothing to do: an earlier job of this chain ended with: $(cat "$mark")"
        exit 0
    fi
}

# Says how a job ended, for good: the chain's other jobs have nothing to do.
agehpc_over() {
    agehpc_say "$*"
    if [[ -n ${AGEHPC_CHAIN:-} && -d $AGEHPC_RUN/control ]]; then
        echo "$*" >"$AGEHPC_RUN/control/chain-$AGEHPC_CHAIN"
    fi
}

# Whether ranks ended by a signal that nobody sent them to make them save, or lost another rank.
agehpc_crashed() { ((AGEHPC_CODE == AGEHPC_LOST || (AGEHPC_CODE > 128 && AGEHPC_CODE != 130))); }

# Notes a crash; its number among those of this job, or chain, with no newer checkpoint.
agehpc_count_crash() {
    local log=$AGEHPC_RUN/control/crashes line="${AGEHPC_CHAIN:-$SLURM_JOB_ID} ${1:-none}"
    mkdir -p "$AGEHPC_RUN/control"
    echo "$line" >>"$log"
    grep -cxF -- "$line" "$log"
}

# Puts the job back into the queue if that is of use, says what happened, and exits.
agehpc_finish() {
    local before=$1 after=$2 starts=$((${SLURM_RESTART_COUNT:-0} + 1)) what=saved crashes=0
    local most=${AGEHPC_MAX_RESTARTS:-20} patience=${AGEHPC_MAX_CRASHES:-3}
    if ((AGEHPC_CODE == 0)); then
        agehpc_over "done"
    elif [[ $AGEHPC_ASKED == TERM ]]; then
        if ((AGEHPC_CODE != AGEHPC_RESTART)); then what="ended with exit code $AGEHPC_CODE"; fi
        agehpc_say "$what; the job was cancelled or preempted, so Slurm decides if it runs again"
    elif ((AGEHPC_CODE != AGEHPC_RESTART)) && ! agehpc_crashed; then
        agehpc_over "failed with exit code $AGEHPC_CODE"
    else
        if agehpc_crashed; then
            what="crashed with exit code $AGEHPC_CODE"
            crashes=$(agehpc_count_crash "$after")
        fi
        if ((crashes == 0)) && [[ $before == "$after" ]]; then
            agehpc_over "not requeued: no checkpoint is newer than at the start, and another start as" \
                "short as this one would not change that; raise --time"
        elif ((crashes >= patience)); then
            agehpc_over "$what; not requeued: $crashes crashes since ${after:-the run began}," \
                "AGEHPC_MAX_CRASHES=$patience; RUN/logs has each rank's last words"
        elif [[ -n ${AGEHPC_CHAIN:-} ]]; then
            agehpc_say "$what; the next job of the chain goes on"
        elif ((starts > most)); then
            agehpc_say "$what; not requeued: $starts starts, AGEHPC_MAX_RESTARTS=$most;" \
                "submit the same command to go on"
        else
            agehpc_requeue "$what; requeued for start $((starts + 1)) of at most $((most + 1))"
        fi
    fi
    exit "$AGEHPC_CODE"
}

agehpc_requeue() {
    agehpc_say "$*"
    if scontrol requeue "$SLURM_JOB_ID"; then
        # Slurm ends this script now. An exit of its own could be taken for the next start's.
        trap - USR1 TERM
        sleep 60
    fi
    agehpc_say "Slurm did not requeue the job; submit the same command to go on"
}

# The same for a job that cannot go on where it was.
agehpc_end() {
    if ((AGEHPC_CODE)); then agehpc_say "failed with exit code $AGEHPC_CODE"; else agehpc_say "done"; fi
    exit "$AGEHPC_CODE"
}
