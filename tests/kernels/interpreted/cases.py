"""Tensors that the tests of the Triton kernels share, and how far results may be off."""

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agehpc_kernels import triton_plan
from agehpc_kernels.form import Form

DEVICE = os.environ["AGEHPC_KERNELS_ON"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORMS = [
    Form(slope, order, save)
    for slope in (0.2, 1.0)
    for order in ("norm_first", "activation_first")
    for save in ("input", "output")
]
EPS = 1e-5


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def affine(channels: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Weights well away from 0, of either sign, and biases of the same size."""
    weight = draw((channels,), seed, torch.float64)
    weight = weight.sign() * (weight.abs() + 0.5)
    return weight.to(dtype), draw((channels,), seed + 1, dtype)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


@contextlib.contextmanager
def two_pass() -> Iterator[None]:
    """No single-read kernels, and tiles so small that even small tensors have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_plan, "FORWARD_ONCE", 0)
        patch.setattr(triton_plan, "BACKWARD_ONCE", 0)
        patch.setattr(triton_plan, "TILE", 256)
        triton_plan.forget()
        yield
    triton_plan.forget()


def torchs(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x as a leaf, and y, by torch's own batch_norm and leaky_relu in a dtype."""
    x = x.detach().to(dtype).requires_grad_(True)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parts = [None if p is None else p.to(wide) for p in (weight, bias)]

    def norm(u: Tensor) -> Tensor:
        return F.batch_norm(u, None, None, *parts, training=True, eps=EPS)

    if form.order == "norm_first":
        return x, F.leaky_relu(norm(x), form.slope)
    return x, norm(F.leaky_relu(x, form.slope))


def near(found: Tensor, torchs: Tensor, exact: Tensor, atol: float) -> None:
    """Assert that found is at most twice as far from the exact values as torch's own, + atol."""
    assert found.shape == exact.shape
    bound = 2 * (torchs.double() - exact).abs().max() + atol
    if found.dtype == torch.bfloat16 and DEVICE == "cpu":
        # The interpreter cuts digits off where the device rounds: up to one unit of the last.
        bound += exact.abs().max() / 128
    error = (found.double() - exact).abs().max()
    assert error <= bound, (error.item(), bound.item())
