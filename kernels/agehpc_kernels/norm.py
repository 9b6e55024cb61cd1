"""Normalisation followed by LeakyReLU, in plain torch: the reference of the fused kernels.

Shapes: B batch, C channels, * any spatial dimensions, K banks of running statistics, W ranks.
torch's SyncBatchNorm refuses the CPU and has no double backward (pytorch#61222); this one has both.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from agehpc_kernels.collective import all_reduce_sum

Norm = Literal["batch", "sync_batch", "group", "none"]


class NormLeakyReLU(nn.Module):
    """Normalise channels, scale and shift them, then LeakyReLU.

    `batch` takes statistics over the rank's batch and space, `sync_batch` over all ranks',
    `group` over groups of channels of one sample, `none` passes the input on. Statistics and
    parameters are float32 whatever the input (float64 after `.double()`, for float64 inputs);
    twice differentiable in every form.

    A network that sees several streams with different statistics keeps a bank of running
    statistics for each: pass its index to `forward`.

    Args:
        norm: which statistics.
        channels: C.
        slope: negative slope of LeakyReLU; 1 leaves the norm alone, 0 is ReLU.
        banks: K, the number of streams.
        momentum: weight of a new batch in the running statistics.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor
    batches_tracked: Tensor

    def __init__(
        self,
        norm: Norm,
        channels: int,
        *,
        slope: float = 0.2,
        banks: int = 1,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.slope, self.momentum, self.eps = slope, momentum, eps
        self.tracking = True  # False: batch statistics are used, running ones left alone
        self.cumulative = False  # True: running statistics are the plain mean over batches
        if norm == "none":
            return
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if norm == "group":
            self.groups = math.gcd(channels, 8)
            return
        self.register_buffer("running_mean", torch.zeros(banks, channels))
        self.register_buffer("running_var", torch.ones(banks, channels))
        self.register_buffer("batches_tracked", torch.zeros(banks, dtype=torch.long))

    def extra_repr(self) -> str:
        """Show the norm and slope in the module's repr."""
        return f"{self.norm}, slope={self.slope}"

    def forward(self, x: Tensor, bank: int = 0) -> Tensor:
        """Normalise and activate.

        Args:
            x: [B, C, *], floating. Collective in training with `sync_batch`.
            bank: which running statistics to update or, in evaluation, to use.

        Returns:
            [B, C, *] in the dtype of `x`.
        """
        if self.norm == "group":
            wide = F.group_norm(_widened(x), self.groups, self.weight, self.bias, self.eps)
            x = wide.to(x.dtype)
        elif self.norm != "none":
            x = self._batch_norm(_widened(x), bank).to(x.dtype)
        return x if self.slope == 1.0 else F.leaky_relu(x, self.slope)

    def _batch_norm(self, x: Tensor, bank: int) -> Tensor:
        if not self.training:
            mean, var = self.running_mean[bank], self.running_var[bank]
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if self.norm == "batch" or self.cumulative:  # calibration runs on one rank alone
            running = (self.running_mean[bank], self.running_var[bank])
            if not self.tracking:
                running = (None, None)
            factor = self._count(bank) if self.tracking else 0.0
            return F.batch_norm(x, *running, self.weight, self.bias, True, factor, self.eps)
        return self._sync_batch_norm(x, bank)

    def _sync_batch_norm(self, x: Tensor, bank: int) -> Tensor:
        mean, var, count = global_moments(x)
        if self.tracking:
            factor = self._count(bank)
            with torch.no_grad():
                unbiased = var * (count / max(count - 1, 1))
                self.running_mean[bank].lerp_(mean, factor)
                self.running_var[bank].lerp_(unbiased, factor)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(var + self.eps) * self.weight
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)

    def _count(self, bank: int) -> float:
        """Count a batch for the running statistics and return its weight."""
        self.batches_tracked[bank] += 1
        return 1.0 / int(self.batches_tracked[bank]) if self.cumulative else self.momentum


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def global_moments(x: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over all ranks' batches. Collective.

    Ranks hold equally many values a channel. Means and squared deviations are combined by
    Chan's formula, so that a large mean costs no precision.

    Args:
        x: [B, C, *], float32 or float64.
        group: the process group; None is the default group.

    Returns:
        mean [C], variance [C], and the number of values a channel over all ranks.
    """
    dims = [0, *range(2, x.dim())]
    local_count = x.numel() // x.shape[1]
    mean = x.mean(dims)
    var = x.var(dims, correction=0)
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return mean, var, local_count
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    # An all-gather written as a sum of zero-padded rows: one collective, differentiable twice.
    mine = F.one_hot(torch.tensor(rank, device=x.device), ranks).to(x.dtype)
    rows = all_reduce_sum(mine.view(ranks, 1, 1) * torch.stack([mean, var]), group)
    means, variances = rows[:, 0], rows[:, 1]
    total = means.mean(0)
    return total, variances.mean(0) + (means - total).square().mean(0), local_count * ranks


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Use batch statistics inside the block without updating running ones."""
    norms = [m for m in module.modules() if isinstance(m, NormLeakyReLU)]
    before = [m.tracking for m in norms]
    for norm in norms:
        norm.tracking = False
    try:
        yield
    finally:
        for norm, tracking in zip(norms, before, strict=True):
            norm.tracking = tracking


@contextmanager
def calibrating(module: nn.Module) -> Iterator[None]:
    """Replace running statistics by the plain mean over the batches passed inside the block."""
    norms = [m for m in module.modules() if isinstance(m, NormLeakyReLU)]
    for norm in norms:
        norm.cumulative = True
        if norm.norm in ("batch", "sync_batch"):
            norm.batches_tracked.zero_()
    modes = [norm.training for norm in norms]
    for norm in norms:  # nothing else: dropout stays as it is
        norm.train()
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.cumulative = False
            norm.train(mode)
