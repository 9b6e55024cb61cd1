#!/usr/bin/env bash
#SBATCH --job-name=agehpc-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.out
#
# Search settings on the job's nodes; `bash slurm/sweep.sh --help` tells how.
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
usage: sbatch [SBATCH FLAGS] slurm/sweep.sh RECIPE --space FILE --data.shards DIR --out SWEEP [FLAGS]

Searches the settings of RECIPE that FILE names: one Ray over the job's nodes, whose CPUs and GPUs
the trials share. Everything after the script's name goes to `agehpc tune`; `agehpc tune --help`
lists the flags. Needs `pip install 'agehpc[tune]'`, and SWEEP where every node sees it.

  sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=12:00:00 slurm/sweep.sh \
      image_age_64 --space tune/spaces/image_age.yaml --data.shards shards/faces \
      --out sweeps/first --trials 64 --gpus-per-trial 1

Five minutes before the time limit the trials are saved and the job requeued; the requeued job goes
on where they were, and so does submitting the same command again. The log is
agehpc-sweep-JOBID.out.
USAGE
    agehpc_usage_environment
}

agehpc_begin slurm/sweep.sh "$@"
AGEHPC_RUN=$(agehpc_out "$@")
agehpc_say "job $SLURM_JOB_ID ($SLURM_JOB_NAME), start $((${SLURM_RESTART_COUNT:-0} + 1))"
agehpc_layout_nodes
agehpc_rendezvous
agehpc_environment
before=$(agehpc_sweep_progress "$AGEHPC_RUN")
AGEHPC_LAUNCHER=srun # a sweep starts the ranks of its trials itself
agehpc_ranks "${AGEHPC_PROGRAM[@]}" tune "$@"
agehpc_finish "$before" "$(agehpc_sweep_progress "$AGEHPC_RUN")"
