#!/usr/bin/env bash
#SBATCH --job-name=agehpc-faces
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/projects/team
#SBATCH --output=/projects/team/runs/faces/logs/slurm-%j.out
#SBATCH --requeue
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME=/projects/team/runs/faces/code/0123456789ab
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_COMMAND=/opt/venv/bin/agehpc
export AGEHPC_LAUNCHER=torchrun
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume image_age_64 \
    --data.shards /data/faces \
    --out /projects/team/runs/faces \
    "$@"
