"""What is fused: the order of norm and LeakyReLU, its slope, and what backward keeps."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Order = Literal["norm_first", "activation_first"]
Save = Literal["input", "output"]


@dataclass(frozen=True)
class Form:
    """One fused operation; hashable, so that compiled kernels can be kept by it."""

    slope: float
    """Negative slope of LeakyReLU: 0 is ReLU, 1 leaves the norm alone."""
    order: Order = "norm_first"
    save: Save = "input"
    """What backward is given as `kept`: x or y."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics and of arithmetic for tensors of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def statistics(moments_3C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return what normalises: [3, C] in `dtype`, the mean as high + low part, and 1 / deviation.

    The rounding of a float32 mean is the largest error of a norm where the mean is large; the low
    part takes it away.

    Args:
        moments_3C: float64: number of values, mean, sum of squared deviations from it.
        eps: added to the biased variance.
        dtype: float32 or float64.
    """
    count, mean, squares = moments_3C
    inverse = torch.rsqrt(squares / count + eps)
    high = mean.to(dtype)
    return torch.stack([high, (mean - high.double()).to(dtype), inverse.to(dtype)])
