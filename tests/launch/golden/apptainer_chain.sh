#!/usr/bin/env bash
#SBATCH --job-name=faces
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --time=1-0
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
#SBATCH --chdir=/projects/team
#SBATCH --output=/projects/team/runs/faces/logs/slurm-%j.out
#SBATCH --no-requeue
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME=/projects/team/runs/faces/code/0123456789ab
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_ENVIRONMENT=apptainer
export AGEHPC_IMAGE=/images/agehpc.sif
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume image_age_64 \
    --data.shards /data/faces \
    --config /projects/team/runs/faces/code/0123456789ab/config.yaml \
    --out /projects/team/runs/faces \
    "$@"
