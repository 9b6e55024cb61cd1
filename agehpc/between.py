"""What systems compute over all ranks."""

import torch.distributed as dist
from torch import Tensor

from agehpc.cluster.collectives import gather
from agehpc.systems.base import Collectives
from agehpc_kernels.norm import global_moments


def _moments(z_BZ: Tensor) -> tuple[Tensor, Tensor]:
    m_Z, v_Z, _ = global_moments(z_BZ)
    return m_Z, v_Z


BETWEEN = Collectives(_moments, gather, dist.get_rank)
