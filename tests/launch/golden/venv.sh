#!/usr/bin/env bash
#SBATCH --job-name=agehpc-first
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --partition=gpu
#SBATCH --account=project7
#SBATCH --wait-all-nodes=1
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/projects/team
#SBATCH --output=/projects/team/runs/first/logs/slurm-%j.out
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --constraint=a100
#
# Starts this run, or resumes it: sbatch submit.sh [more flags of agehpc train]
set -euo pipefail

export AGEHPC_HOME=/projects/team/runs/first/code/0123456789ab
export PYTHONPATH=$AGEHPC_HOME${PYTHONPATH:+:$PYTHONPATH}
export AGEHPC_SITE=a100_modules
export AGEHPC_VENV='/opt/venv of all'
export AGEHPC_LOCAL_TMP=/local
# shellcheck source=/dev/null
source "$AGEHPC_HOME/slurm/lib/common.sh"

agehpc_resume video_age_a100_4n \
    --data.shards shards/a shards/b \
    --train.kimg 5000 \
    --out /projects/team/runs/first \
    "$@"
