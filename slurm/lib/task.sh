#!/usr/bin/env bash
# One task of srun: runs the command with the node's own folder for temporary files and caches.
# Kernels compiled on a network folder by many ranks at once break on stale file handles.
set -uo pipefail

# Slurm signals every process of a step. Until Python listens a request to save is not fatal, and
# this shell outlives every request to tidy up.
trap '' USR1 USR2
trap : TERM INT

folder=$AGEHPC_LOCAL-$SLURMD_NODENAME
mkdir -p "$folder/tmp" "$folder/tasks/$SLURM_LOCALID" || exit 1
export TMPDIR=$folder/tmp TRITON_CACHE_DIR=$folder/triton TORCH_EXTENSIONS_DIR=$folder/extensions
export PYTHONUNBUFFERED=1

"$@"
code=$?

# The node's last task removes the folder.
rmdir "$folder/tasks/$SLURM_LOCALID"
if rmdir "$folder/tasks" 2>/dev/null; then rm -rf "$folder"; fi

# 85 is no failure, and srun would end the ranks that still shut down: the batch script gets a file.
if ((code == 85)) && [[ -n $AGEHPC_RESTART_FILE ]]; then
    # On the batch script's node alone: nobody would remove it from the others.
    if ((SLURM_NODEID == 0)); then : >"$AGEHPC_RESTART_FILE"; fi
    exit 0
fi
# Ended by srun because another rank failed: the job's exit code is the largest, let it be that one's.
if ((code == 143)); then code=1; fi
exit "$code"
