#!/usr/bin/env bash
#SBATCH --job-name=agehpc-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --output=%x-%j.out
#
# Score a run's samples on the job's nodes; `bash slurm/evaluate.sh --help` tells how.
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

agehpc_usage() {
    cat <<'USAGE'
usage: sbatch [SBATCH FLAGS] slurm/evaluate.sh RUN [FLAGS]

Scores what the run RUN generates with one process per GPU, or per task where the job has no GPU.
Everything after the script's name goes to `agehpc evaluate`; `agehpc evaluate --help` lists the
flags.

  sbatch --gpus-per-node=4 --cpus-per-task=32 --time=1:00:00 \
      slurm/evaluate.sh runs/first --metrics frechet_inception prdc_inception

Compute nodes rarely see the internet: on a login node `agehpc evaluate --prefetch inception` fetches
the weights before. The log is agehpc-evaluate-JOBID.out.
USAGE
    agehpc_usage_environment
}

agehpc_begin slurm/evaluate.sh "$@"
if (($#)) && [[ $1 != -* ]]; then AGEHPC_RUN=$1; fi
agehpc_layout
agehpc_rendezvous
agehpc_environment
agehpc_ranks "${AGEHPC_PROGRAM[@]}" evaluate "$@"
agehpc_end
