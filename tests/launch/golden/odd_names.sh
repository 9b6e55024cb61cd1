#!/usr/bin/env bash
#SBATCH --job-name='agehpc-a b%c'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/projects/team
#SBATCH --output='/projects/team/runs/a b%%c/logs/slurm-%j.out'
#SBATCH --requeue
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME='/projects/team/runs/a b%c/code/0123456789ab'
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_ENVIRONMENT=path
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume image_age_64 \
    --data.shards 'it'"'"'s here' '$HOME/`x`' \
    --out '/projects/team/runs/a b%c' \
    "$@"
