#!/usr/bin/env bash
#SBATCH --job-name=agehpc-bench
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --wait-all-nodes=1
#SBATCH --output=%x-%j.out
#
# Measure training speed on one node; `bash slurm/bench.sh --help` tells how.
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
usage: sbatch [SBATCH FLAGS] slurm/bench.sh --recipe RECIPE [FLAGS] [-- TRAIN FLAGS]

Measures the training speed of recipes on one node, by world size and ZeRO stage. Everything after
the script's name goes to benchmarks/throughput.py, whose --help lists the flags; its rows go to
benchmarks/results/throughput.csv, or to --out FILE.

  sbatch --gpus-per-node=4 --cpus-per-task=64 --exclusive --time=1:00:00 slurm/bench.sh \
      --recipe video_age_a100_4n --world-size 1 2 4 --steps 120 --warmup 20 --tick-steps 10 \
      --shards shards/mine -- --train.global-batch 64

The log is agehpc-bench-JOBID.out.
USAGE
    agehpc_usage_environment
}

agehpc_begin slurm/bench.sh "$@"
agehpc_layout_node
agehpc_environment
AGEHPC_LAUNCHER=srun # the benchmark starts the ranks of each of its runs itself
agehpc_ranks "${AGEHPC_PYTHON[@]}" "$AGEHPC_HOME/benchmarks/throughput.py" "$@"
agehpc_end
