"""Statistics over all ranks: one all-gather in forward, one all-reduce in backward.

Payloads are float64 and counts stay tensors: ranks may hold unequally many values or none, nothing
waits for the host, and a large mean costs no precision. C channels, W ranks. Works on gloo and
NCCL.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def shared(group: dist.ProcessGroup | None) -> bool:
    """Return whether there are other ranks to share statistics with. None is the default group."""
    return dist.is_initialized() and dist.get_world_size(group) > 1


def combined(moments_3C: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Combine the moments of all ranks, by Chan's formula for many parts. Collective.

    Args:
        moments_3C: float64: this rank's number of values, mean, sum of squared deviations; all
            three 0 on a rank without values.
        group: the process group.

    Returns:
        The moments of all ranks' values, float64 [3, C], equal on every rank.
    """
    ranks, channels = dist.get_world_size(group), moments_3C.shape[1]
    # The ranks' parts one after the other: the only shape that gloo takes.
    gathered = moments_3C.new_empty(ranks * 3, channels)
    dist.all_gather_single(gathered, moments_3C, group=group)
    counts_WC, means_WC, squares_WC = gathered.view(ranks, 3, channels).unbind(1)
    count = counts_WC.sum(0)
    mean = (counts_WC * means_WC).sum(0) / count.clamp(min=1)
    squares = squares_WC.sum(0) + (counts_WC * (means_WC - mean).square()).sum(0)
    return torch.stack([count, mean, squares])
