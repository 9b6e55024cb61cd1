#!/usr/bin/env bash
#SBATCH --job-name=agehpc-clips
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/projects/team
#SBATCH --output=/scratch/runs/clips/logs/slurm-%j.out
#SBATCH --requeue
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME=/scratch/runs/clips/code/0123456789ab
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_ENVIRONMENT=pyxis
export AGEHPC_IMAGE=/images/agehpc.sqsh
export AGEHPC_MOUNTS=/data,/scratch
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume video_age_64 \
    --data.shards /data/clips \
    --out /scratch/runs/clips \
    "$@"
