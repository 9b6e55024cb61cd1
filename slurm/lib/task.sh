#!/usr/bin/env bash
# One task of srun: runs the command with the node's own folder for temporary files and caches.
# Kernels compiled on a network folder by many ranks at once break on stale file handles.
set -uo pipefail

# Slurm signals every process of a step. Until Python listens a request to save is not fatal, and
# this shell outlives every request to tidy up.
trap '' USR1 USR2
trap : TERM INT

folder=$AGEHPC_LOCAL-$SLURMD_NODENAME
(umask 077 && mkdir -p "$folder/tmp" "$folder/tasks/$SLURM_LOCALID") || exit 1
# Compiled code is loaded from it: in /tmp anybody could have made it before.
if [[ ! -O $folder ]]; then
    echo "error: $folder on $SLURMD_NODENAME belongs to another user; remove it, or export" \
        "AGEHPC_LOCAL_TMP=/another/folder" >&2
    exit 1
fi
export TMPDIR=$folder/tmp TRITON_CACHE_DIR=$folder/triton TORCH_EXTENSIONS_DIR=$folder/extensions
export PYTHONUNBUFFERED=1
export PET_NODE_RANK=$SLURM_NODEID # torchrun's number of this node

"$@"
code=$?

# The node's last task removes the folder.
rmdir "$folder/tasks/$SLURM_LOCALID"
if rmdir "$folder/tasks" 2>/dev/null; then rm -rf "$folder"; fi

# Ended by srun because another rank failed: the job's exit code is the largest, let it be that one's.
if ((code == 143)); then code=1; fi
exit "$code"
