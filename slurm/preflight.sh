#!/usr/bin/env bash
#SBATCH --job-name=agehpc-preflight
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --output=%x-%j.out
#
# Check that the job's nodes are fit to train together; `bash slurm/preflight.sh --help` tells how.
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
usage: sbatch [SBATCH FLAGS] slurm/preflight.sh [FLAGS]

Checks GPUs, all-reduce, clocks, disks, versions and limits of the job's nodes, with one process per
GPU, or per task where the job has no GPU, and names the hosts to leave out by `sbatch --exclude`.
Everything after the script's name goes to `agehpc preflight`; `agehpc preflight --help` lists the
flags. The job fails with exit code 1 where a check does.

  sbatch --nodes=16 --gpus-per-node=4 --cpus-per-task=32 --time=0:10:00 slurm/preflight.sh \
      --out runs --least-gb-s 20

The log is agehpc-preflight-JOBID.out.
USAGE
    agehpc_usage_environment
}

agehpc_begin slurm/preflight.sh "$@"
agehpc_layout
agehpc_rendezvous
agehpc_environment
agehpc_ranks "${AGEHPC_PROGRAM[@]}" preflight "$@"
agehpc_end
