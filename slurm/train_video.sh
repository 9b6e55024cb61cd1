#!/usr/bin/env bash
#SBATCH --job-name=agehpc-video
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
#
# Train a video A.G.E. on the job's nodes; `bash slurm/train_video.sh --help` tells how.
set -euo pipefail

# Slurm runs a copy of this file: what lies beside it is found through the submit folder.
for home in "${AGEHPC_HOME:-}" "$(dirname "${BASH_SOURCE[0]}")/.." "${SLURM_SUBMIT_DIR:-}" ""; do
    if [[ -f $home/slurm/lib/common.sh ]]; then break; fi
done
if [[ -z $home ]]; then
    echo "error: slurm/lib/common.sh is not below ${SLURM_SUBMIT_DIR:-$PWD};" \
        "submit from the agehpc folder, or export AGEHPC_HOME=/path/to/agehpc" >&2
    exit 2
fi
AGEHPC_HOME=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/common.sh
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_train video video_age_64 "$@"
