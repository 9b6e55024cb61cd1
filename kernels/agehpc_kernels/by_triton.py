"""The fused operation in Triton kernels, for CUDA; on the CPU only in Triton's interpreter.

The functions are those of :mod:`agehpc_kernels.by_aten`, which says what they mean; they can be
called where `refusal` gives no reason against it. Results do not depend on how programs are
scheduled: sums go through parts that are added in a fixed order. Triton is imported at the first
launch. Strided tensors are copied to the nearest dense layout, gradients to that of `kept`; the
outputs have it too.
"""

import functools
import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from agehpc_kernels.form import Form, statistics, wide
from agehpc_kernels.triton_plan import is_channels_last, plan

_FEWEST_VALUES = 2**23
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Running = tuple[Tensor, Tensor, float]
"""Running mean and variance, contiguous float32, and how far they move to those of a batch."""


def refusal(x: Tensor, form: Form) -> str | None:
    """Say why the kernels cannot take a tensor; None where they can. They take every form."""
    if x.dtype not in DTYPES:
        return f"Triton: no kernels for {x.dtype}"
    return _unfit(x.device)


def slower(x: Tensor, form: Form) -> str | None:
    """Return why torch's own operators are the better choice for the size of `x`.

    The kernels are faster at every size that was measured, but Python launches them: a layer takes
    the host about 0.2 ms longer than F.batch_norm + F.leaky_relu (H100 with a slow host). A step of
    small layers waits for the host; large ones save more than that (benchmarks/kernels.py).
    """
    if x.numel() < _FEWEST_VALUES:
        fewest = f"{x.numel()} values are fewer than {_FEWEST_VALUES}"
        return f"{fewest}: launches cost the host more than they save"
    return None


@functools.cache
def _unfit(device: torch.device) -> str | None:
    """Say why kernels cannot be compiled for a device. Found out once: every call asks."""
    if importlib.util.find_spec("triton") is None:
        return "Triton: not installed"
    if device.type == "cuda":
        if not torch.cuda.is_available():  # a tensor without memory, for a GPU elsewhere
            return "Triton: no GPU here"
        major, minor = torch.cuda.get_device_capability(device)
        if torch.version.hip is None and major < 8:
            return f"Triton: compute capability {major}.{minor} is below 8.0"
        return None
    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    if device.type == "cpu" and interpreted:
        return None
    return f"Triton: does not compile for {device.type}"


def moments(x: Tensor, form: Form) -> Tensor:
    """Return float64 [3, C]: number of values of u, their mean, sum of squared deviations."""
    if not x.numel():
        return _no_moments(x)
    moments_3C = _empty(x, torch.float64, 3)
    _moments(dense(x), form, None, moments_3C, None, None)
    return moments_3C


def apply(
    x: Tensor, stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> Tensor:
    """Normalise by given statistics, scale, shift and activate: y."""
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel():
        _calls().apply(plan(x), form)((x, y, *_of_channels(stats_3C, weight, bias)))
    return y


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of x itself: y, the moments and the statistics."""
    if not x.numel():
        none = _no_moments(x)
        return torch.empty_like(x), none, statistics(none, eps, wide(x.dtype))
    moments_3C = _empty(x, torch.float64, 3)
    y, stats_3C = _forward(x, weight, bias, eps, form, moments_3C, None)
    return y, moments_3C, stats_3C


def forward_moving(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    form: Form,
    running: Running | None,
) -> tuple[Tensor, Tensor]:
    """Normalise by the statistics of x, which has values, and move running ones: y, statistics."""
    return _forward(x, weight, bias, eps, form, None, running)


def backward_sums(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> Tensor:
    """Return float64 [2, C]: sums of g and of g * x_hat, g the gradient of weight * x_hat + bias.

    They are the gradients of bias and weight.
    """
    dy, kept = _alike(dy, kept)
    return _sums(dy, kept, None, _of_channels(stats_3C, weight, bias), form, torch.float64)[0]


def backward_apply(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    means_2C: Tensor,
    form: Form,
) -> Tensor:
    """Return dx. `means_2C` float64: the sums over all ranks over their number of values."""
    dy, kept = _alike(dy, kept)
    dx = torch.empty_like(kept, dtype=dy.dtype)
    if dx.numel():
        channel = _of_channels(stats_3C, weight, bias)
        _calls().apply_backward(plan(kept), form)((dy, kept, dx, *channel, means_2C.contiguous()))
    return dx


def backward(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Return dx and the sums, in a dtype, for statistics of this x alone."""
    dy, kept = _alike(dy, kept)
    channel = _of_channels(stats_3C, weight, bias)
    if not kept.numel() or plan(kept).backward_once is None:
        sums_2C, means_2C = _sums(dy, kept, None, channel, form, dtype)
        return backward_apply(dy, kept, stats_3C, weight, bias, means_2C, form), sums_2C
    dx = torch.empty_like(kept, dtype=dy.dtype)
    sums_2C = _empty(kept, dtype, 2)
    _calls().backward_once(plan(kept), form)((dy, kept, dx, *channel, sums_2C))
    return dx, sums_2C


def backward_fixed(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Return dx and the sums, for statistics that do not depend on x (evaluation)."""
    dy, kept = _alike(dy, kept)
    dx = torch.empty_like(kept, dtype=dy.dtype)
    channel = _of_channels(stats_3C, weight, bias)
    return dx, _sums(dy, kept, dx, channel, form, torch.float64)[0]


def dense(x: Tensor) -> Tensor:
    """Return x without gaps: as it is, or a copy in the nearer of the two layouts."""
    if x.is_contiguous() or is_channels_last(x):
        return x
    return _in_layout(x, x.stride(1) == 1)


def _in_layout(x: Tensor, channels_last: bool) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x.contiguous()


def _alike(dy: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    kept = dense(kept)
    return _in_layout(dy, not kept.is_contiguous()), kept


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    form: Form,
    moments_3C: Tensor | None,
    running: Running | None,
) -> tuple[Tensor, Tensor]:
    """Return y and the statistics; fill `moments_3C`, if there are any, and move `running`."""
    x = dense(x)
    p = plan(x)
    stats_3C = _empty(x, p.wide, 3)
    if p.forward_once is None:
        _moments(x, form, eps, moments_3C, stats_3C, running)
        return apply(x, stats_3C, weight, bias, form), stats_3C
    y = torch.empty_like(x)
    apart = running is not None and not p.moves
    if apart and moments_3C is None:
        moments_3C = _empty(x, torch.float64, 3)
    mean, var, momentum = running or (None, None, 0.0)
    channel = _of_channels(stats_3C, weight, bias)
    moved = (None, None) if apart else (mean, var)
    _calls().forward_once(p, form, eps)((x, y, moments_3C, *channel, *moved), momentum)
    if apart:
        _calls().move_by(p)((moments_3C, mean, var), momentum)
    return y, stats_3C


def _moments(
    x: Tensor,
    form: Form,
    eps: float | None,
    moments_3C: Tensor | None,
    stats_3C: Tensor | None,
    running: Running | None,
) -> None:
    """Fill what is wanted of moments, statistics (with an eps) and running statistics."""
    p = plan(x)
    parts_P4C = x.new_empty((p.parts, 4, x.shape[1]), dtype=p.wide)
    _calls().moments(p, form)((x, parts_P4C))
    mean, var, momentum = running or (None, None, 0.0)
    _calls().combine(p, eps)((parts_P4C, moments_3C, stats_3C, mean, var), momentum)


def _sums(
    dy: Tensor,
    kept: Tensor,
    dx: Tensor | None,
    channel: tuple[Tensor | None, ...],
    form: Form,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return sums in a dtype and means [2, C]; fill dx for fixed statistics unless it is None."""
    sums_2C, means_2C = (_empty(kept, d, 2) for d in (dtype, torch.float64))
    if not kept.numel():
        return sums_2C.zero_(), means_2C.zero_()
    p = plan(kept)
    parts_P2C = kept.new_empty((p.parts, 2, kept.shape[1]), dtype=p.wide)
    _calls().sums(p, form)((dy, kept, dx, *channel, parts_P2C))
    _calls().add_up(p)((parts_P2C, sums_2C, means_2C))
    return sums_2C, means_2C


@functools.cache
def _calls() -> Any:
    return importlib.import_module("agehpc_kernels.triton_calls")


def _of_channels(
    stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    assert (weight is None) == (bias is None), "weight and bias come together"
    return tuple(None if t is None else t.contiguous() for t in (stats_3C, weight, bias))


def _empty(x: Tensor, dtype: torch.dtype, rows: int) -> Tensor:
    return x.new_empty((rows, x.shape[1]), dtype=dtype)


def _no_moments(x: Tensor) -> Tensor:
    return x.new_zeros((3, x.shape[1]), dtype=torch.float64)
