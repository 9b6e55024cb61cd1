#!/usr/bin/env bash
#SBATCH --job-name=agehpc-digits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/projects/team
#SBATCH --output=/projects/team/runs/digits/logs/slurm-%j.out
#SBATCH --requeue
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME=/projects/team/runs/digits/code/0123456789ab
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_ENVIRONMENT=path
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume mnist_vae \
    --data.shards shards/digits \
    --out /projects/team/runs/digits \
    "$@"
