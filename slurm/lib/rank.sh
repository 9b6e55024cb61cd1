#!/usr/bin/env bash
# One rank, started by a task of srun or by torchrun there: its exit code 85 becomes a file.
set -uo pipefail

trap '' USR1 USR2
trap : TERM INT

"$@"
code=$?

# 85 is no failure, and what started the ranks would end those that still shut down: the batch
# script gets a file. On its own node alone: nobody would remove it from the others.
if ((code == 85)) && [[ -n $AGEHPC_RESTART_FILE ]]; then
    if ((SLURM_NODEID == 0)); then : >"$AGEHPC_RESTART_FILE"; fi
    exit 0
fi
exit "$code"
