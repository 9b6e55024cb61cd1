"""A sum over ranks that autograd can differentiate any number of times."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # d(sum over ranks of L_r)/dx = sum over ranks of dL_r/d(total): again an all-reduce.
        return all_reduce_sum(grad_outputs[0], ctx.group), None


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum `x` over ranks, differentiably to any order. Collective, in backward passes too.

    Args:
        x: any shape and floating dtype, equal on every rank.
        group: the process group; None is the default group.

    Returns:
        The sum, in the shape and dtype of `x`. `x` itself where no group is initialised.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return x
    out = _AllReduceSum.apply(x, group)
    assert isinstance(out, Tensor)
    return out
