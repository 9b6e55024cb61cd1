# An example for GPU nodes with environment modules and a local disk; copy it and adapt the names.
#   AGEHPC_SITE=a100_modules sbatch --nodes=4 --gpus-per-node=4 --ntasks-per-node=4 \
#       --cpus-per-task=16 --time=24:00:00 slurm/train_video.sh video_age_a100_4n ...
# shellcheck shell=bash

module purge
# shellcheck disable=SC2086 # several modules
module load ${AGEHPC_MODULES:-gcc cuda}

# The fast local disk; /tmp is often a small one, or memory.
export AGEHPC_LOCAL_TMP=${AGEHPC_LOCAL_TMP:-${SCRATCH_LOCAL:-/tmp}}

# The network between nodes, where NCCL and gloo guess wrong: `ip -brief address` shows the names.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-ib0}
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-ib0}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
