"""The normalisation and LeakyReLU of the models: by fused kernels, or in plain torch.

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
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList

from agehpc_kernels.collective import all_reduce_sum
from agehpc_kernels.form import Order
from agehpc_kernels.fused import bn_leaky_relu

Norm = Literal["batch", "sync_batch", "group", "instance", "none"]


class NormLeakyReLU(nn.Module):
    """Normalise channels, scale and shift them, then LeakyReLU; or LeakyReLU first.

    `batch` takes statistics over the rank's batch and space, `sync_batch` over all ranks',
    `group` over groups of channels of one sample, `instance` over each channel of one sample,
    `none` passes the input on. Statistics and parameters are float32 whatever the input (float64
    after `.double()`, for float64 inputs); twice differentiable in every form. `batch` and
    `sync_batch` are one fused operation with LeakyReLU, unless `use_reference` says otherwise.

    A network that sees several streams with different statistics keeps a bank of running
    statistics for each: pass its index to `forward`.

    Args:
        norm: which statistics.
        channels: C.
        slope: negative slope of LeakyReLU; 1 leaves the norm alone, 0 is ReLU.
        banks: K, the number of streams.
        momentum: weight of a new batch in the running statistics.
        eps: added to the variance.
        order: whether the norm or LeakyReLU comes first.
        classes: number of classes, each with its own scale and shift (conditional norm, Dumoulin
            et al. 2017); None has one for all. Not with `none`.
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
        order: Order = "norm_first",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.order: Order = order
        self.slope, self.momentum, self.eps = slope, momentum, eps
        self.classes = classes
        self.tracking = True  # False: batch statistics are used, running ones left alone
        self.cumulative = False  # True: running statistics are the plain mean over batches
        self.fused = norm in ("batch", "sync_batch")
        if norm == "none":
            assert classes is None, "the classes come in through the norm's scale and shift"
            return
        shape = (channels,) if classes is None else (classes, channels)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        if norm == "group":
            self.groups = math.gcd(channels, 8)
        elif norm != "instance":
            self.register_buffer("running_mean", torch.zeros(banks, channels))
            self.register_buffer("running_var", torch.ones(banks, channels))
            self.register_buffer("batches_tracked", torch.zeros(banks, dtype=torch.long))

    def extra_repr(self) -> str:
        """Show the norm, order, slope and classes in the module's repr."""
        classes = "" if self.classes is None else f", classes={self.classes}"
        return f"{self.norm}, {self.order}, slope={self.slope}{classes}"

    def forward(self, x: Tensor, bank: int = 0, labels: Tensor | None = None) -> Tensor:
        """Normalise and activate.

        Args:
            x: [B, C, *], floating. Collective in training with `sync_batch`. `instance` needs
                more than one value a channel.
            bank: which running statistics to update or, in evaluation, to use.
            labels: [B], int64, the samples' classes; needed where there are classes, and not
                looked at elsewhere.

        Returns:
            [B, C, *] in the dtype of `x`.
        """
        if self.fused and self.classes is None:
            return self._fused(x, bank, self.weight, self.bias, self.slope)
        if self.order == "activation_first":
            return self._normalised(self._activated(x), bank, labels)
        return self._activated(self._normalised(x, bank, labels))

    def _fused(
        self, x: Tensor, bank: int, weight: Tensor | None, bias: Tensor | None, slope: float
    ) -> Tensor:
        tracks = self.training and self.tracking
        known = tracks or not self.training
        return bn_leaky_relu(
            x,
            weight,
            bias,
            self.running_mean[bank] if known else None,
            self.running_var[bank] if known else None,
            training=self.training,
            momentum=self._count(bank) if tracks else 0.0,
            eps=self.eps,
            slope=slope,
            order=self.order,
            # Calibration runs on one rank alone.
            sync=self.norm == "sync_batch" and not self.cumulative,
        )

    def _activated(self, x: Tensor) -> Tensor:
        return x if self.slope == 1.0 else F.leaky_relu(x, self.slope)

    def _normalised(self, x: Tensor, bank: int, labels: Tensor | None) -> Tensor:
        if self.norm == "none":
            return x
        wide = _widened(x)
        if self.classes is None:
            return self._standardised(wide, bank, self.weight, self.bias).to(x.dtype)
        assert labels is not None, "a conditional norm needs the samples' classes"
        scale, shift = (F.embedding(labels, table) for table in (self.weight, self.bias))
        shape = (*scale.shape, *(1,) * (x.dim() - 2))
        y = self._standardised(wide, bank, None, None)
        return torch.addcmul(shift.view(shape), y, scale.view(shape)).to(x.dtype)

    def _standardised(
        self, x: Tensor, bank: int, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        if self.norm == "instance":
            return F.instance_norm(x, weight=weight, bias=bias, eps=self.eps)
        if self.norm == "group":
            return F.group_norm(x, self.groups, weight, bias, self.eps)
        if self.fused:
            return self._fused(x, bank, weight, bias, slope=1.0)
        if not self.training:
            mean, var = self.running_mean[bank], self.running_var[bank]
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        if self.norm == "batch" or self.cumulative:  # calibration runs on one rank alone
            running = (self.running_mean[bank], self.running_var[bank])
            if not self.tracking:
                running = (None, None)
            factor = self._count(bank) if self.tracking else 0.0
            return F.batch_norm(x, *running, weight, bias, True, factor, self.eps)
        return self._sync_batch_norm(x, bank, weight, bias)

    def _sync_batch_norm(
        self, x: Tensor, bank: int, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        mean, var, count = global_moments(x)
        if self.tracking:
            factor = self._count(bank)
            with torch.no_grad():
                unbiased = var * (count / max(count - 1, 1))
                self.running_mean[bank].lerp_(mean, factor)
                self.running_var[bank].lerp_(unbiased, factor)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(var + self.eps)
        if weight is None or bias is None:
            return (x - mean.view(shape)) * scale.view(shape)
        return (x - mean.view(shape)) * (scale * weight).view(shape) + bias.view(shape)

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


def use_reference(module: nn.Module) -> None:
    """Let every norm inside compose torch's own functions, in the place of the fused operation."""
    for norm in module.modules():
        if isinstance(norm, NormLeakyReLU):
            norm.fused = False


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Update no running statistics inside the block, and no vectors of spectral normalisation.

    Norms go on using batch statistics; spectral normalisation uses its present vectors.
    """
    norms = [m for m in module.modules() if isinstance(m, NormLeakyReLU)]
    spectral = [m for m in module.modules() if isinstance(m, _SpectralNorm)]
    tracking, training = [m.tracking for m in norms], [m.training for m in spectral]
    for norm in norms:
        norm.tracking = False
    for part in spectral:
        part.training = False  # it moves its vectors in every forward of training mode
    try:
        yield
    finally:
        for norm, before in zip(norms, tracking, strict=True):
            norm.tracking = before
        for part, before in zip(spectral, training, strict=True):
            part.training = before


@contextmanager
def calibrating(module: nn.Module) -> Iterator[None]:
    """Replace running statistics by the plain mean over the batches passed inside the block.

    Spectral normalisation finds its vectors anew, so that they depend on the weights alone.
    Dropout stays off.
    """
    norms = [m for m in module.modules() if isinstance(m, NormLeakyReLU)]
    before = [(m, m.training) for m in module.modules()]
    _restart_spectral_norms(module)
    module.eval()
    for norm in norms:
        norm.train()
        norm.cumulative = True
        if norm.norm in ("batch", "sync_batch"):
            norm.batches_tracked.zero_()
    try:
        with torch.no_grad():
            yield
    finally:
        for norm in norms:
            norm.cumulative = False
        for part, training in before:
            part.training = training


@torch.no_grad()
def _restart_spectral_norms(module: nn.Module, iterations: int = 100) -> None:
    """Estimate the largest singular values afresh, from vectors that are always the same.

    Averaged weights come without vectors; what earlier weights left behind would make the result
    depend on how often it was asked for.
    """
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if not isinstance(part, ParametrizationList):
            continue
        for norm in part:
            if isinstance(norm, _SpectralNorm):
                start = torch.randn(len(norm._v), generator=generator)
                norm._v.copy_(F.normalize(start, dim=0))
                norm._power_method(norm._reshape_weight_to_matrix(part.original), iterations)
