"""The fused operation in Triton kernels, for CUDA; on the CPU only in Triton's interpreter.

The functions are those of :mod:`agehpc_kernels.by_aten`, which says what they mean; they can be
called where `refusal` gives no reason against it. Results do not depend on how programs are
scheduled: sums go through parts that are added in a fixed order. Triton is imported at the first
launch. Strided tensors are copied to the nearest dense layout, gradients to that of `kept`; the
outputs have it too.
"""

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from agehpc_kernels.form import Form, statistics, wide
from agehpc_kernels.triton_launch import Launch, run
from agehpc_kernels.triton_plan import PARTS, Plan, Tile, is_channels_last, plan, power_of_2

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def refusal(x: Tensor, form: Form) -> str | None:
    """Say why the kernels cannot take a tensor; None where they can. They take every form."""
    if x.dtype not in DTYPES:
        return f"Triton: no kernels for {x.dtype}"
    return _unfit(x.device)


def slower(x: Tensor, form: Form) -> str | None:
    """Say why another backend is the better choice: none is known to be, on a device."""
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
    return _no_moments(x) if not x.numel() else _moments(dense(x), None, form)[0]


def apply(
    x: Tensor, stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None, form: Form
) -> Tensor:
    """Normalise by given statistics, scale, shift and activate: y."""
    x = dense(x)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    p = plan(x)
    channel = _of_channels(stats_3C, weight, bias)
    constants = _forward(form) | _layout(p, p.tile, x.dtype)
    _run("apply", p.tiles * p.groups, (x, y, *channel, *p.shape), constants, p.tile.warps)
    return y


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of x itself: y, the moments and the statistics."""
    if not x.numel():
        none = _no_moments(x)
        return torch.empty_like(x), none, statistics(none, eps, wide(x.dtype))
    x = dense(x)
    p = plan(x)
    tile = p.forward_once
    if tile is None:
        moments_3C, stats_3C = _moments(x, eps, form)
        assert stats_3C is not None
        return apply(x, stats_3C, weight, bias, form), moments_3C, stats_3C
    y = torch.empty_like(x)
    moments_3C, stats_3C = _empty(x, torch.float64, 3), _empty(x, wide(x.dtype), 3)
    channel = (moments_3C, *_of_channels(stats_3C, weight, bias))
    constants = _forward(form) | {"EPS": eps} | _layout(p, tile, x.dtype)
    _run("forward_once", _groups(p, tile), (x, y, *channel, *p.shape), constants, tile.warps)
    return y, moments_3C, stats_3C


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
    return _sums(dy, kept, None, _of_channels(stats_3C, weight, bias), form)[0]


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
    if not dx.numel():
        return dx
    p = plan(kept)
    channel = (*_of_channels(stats_3C, weight, bias), means_2C.contiguous())
    constants = _backward(form) | _layout(p, p.tile, kept.dtype)
    arguments = (dy, kept, dx, *channel, *p.shape)
    _run("apply_backward", p.tiles * p.groups, arguments, constants, p.tile.warps)
    return dx


def backward(
    dy: Tensor,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """Return dx and the sums, for statistics of this x alone."""
    dy, kept = _alike(dy, kept)
    channel = _of_channels(stats_3C, weight, bias)
    p = plan(kept) if kept.numel() else None
    tile = p.backward_once if p else None
    if p is None or tile is None:
        sums_2C, means_2C = _sums(dy, kept, None, channel, form)
        return backward_apply(dy, kept, stats_3C, weight, bias, means_2C, form), sums_2C
    dx = torch.empty_like(kept, dtype=dy.dtype)
    sums_2C = _empty(kept, torch.float64, 2)
    constants = _backward(form) | _layout(p, tile, kept.dtype)
    arguments = (dy, kept, dx, *channel, sums_2C, *p.shape)
    _run("backward_once", _groups(p, tile), arguments, constants, tile.warps)
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
    return dx, _sums(dy, kept, dx, _of_channels(stats_3C, weight, bias), form)[0]


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


def _moments(x: Tensor, eps: float | None, form: Form) -> tuple[Tensor, Tensor | None]:
    """Return moments and, for an eps, statistics, by two kernels."""
    p = plan(x)
    channels = x.shape[1]
    parts_P4C = x.new_empty((p.parts, 4, channels), dtype=wide(x.dtype))
    moments_3C = _empty(x, torch.float64, 3)
    stats_3C = None if eps is None else _empty(x, wide(x.dtype), 3)
    constants = _forward(form) | _layout(p, p.tile, x.dtype)
    arguments = (x, parts_P4C, *p.shape, p.tiles, p.per_program)
    _run("moments", p.parts * p.groups, arguments, constants, p.tile.warps)
    constants = {"EPS": eps, "ACC": _wide_type(x.dtype)}
    _finish("combine", p.parts, channels, (parts_P4C, moments_3C, stats_3C), (), constants)
    return moments_3C, stats_3C


def _sums(
    dy: Tensor, kept: Tensor, dx: Tensor | None, channel: tuple[Tensor | None, ...], form: Form
) -> tuple[Tensor, Tensor]:
    """Return sums and means [2, C], and fill dx for fixed statistics unless it is None."""
    channels = kept.shape[1]
    if not kept.numel():
        none = kept.new_zeros((2, channels), dtype=torch.float64)
        return none, none
    p = plan(kept)
    parts_P2C = kept.new_empty((p.parts, 2, channels), dtype=wide(kept.dtype))
    results_22C = kept.new_empty((2, 2, channels), dtype=torch.float64)
    constants = _backward(form) | _layout(p, p.tile, kept.dtype)
    arguments = (dy, kept, dx, *channel, parts_P2C, *p.shape, p.tiles, p.per_program)
    _run("sums", p.parts * p.groups, arguments, constants, p.tile.warps)
    count = kept.numel() // channels
    _finish("add_up", p.parts, channels, (parts_P2C, results_22C), (count,), {})
    return results_22C[0], results_22C[1]


def _finish(
    name: str,
    parts: int,
    channels: int,
    tensors: tuple[Tensor | None, ...],
    more: tuple[int, ...],
    constants: dict[str, Any],
) -> None:
    rows = power_of_2(parts)
    columns = min(power_of_2(channels), max(1, PARTS // rows), 128)
    constants = {**constants, "ROWS": rows, "COLUMNS": columns}
    _run(name, -(-channels // columns), (*tensors, channels, parts, *more), constants, 8)


def _groups(p: Plan, tile: Tile) -> int:
    return -(-p.shape[1] // tile.columns) if p.channels_last else p.shape[1]


def _of_channels(
    stats_3C: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    assert (weight is None) == (bias is None), "weight and bias come together"
    return tuple(None if t is None else t.contiguous() for t in (stats_3C, weight, bias))


def _forward(form: Form) -> dict[str, Any]:
    return {"SLOPE": form.slope, "ACTIVATION_FIRST": form.order == "activation_first"}


def _backward(form: Form) -> dict[str, Any]:
    assert form.save == "input" or form.slope > 0, "x cannot be found again from y"
    return _forward(form) | {"FROM_OUTPUT": form.save == "output"}


def _layout(p: Plan, tile: Tile, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "CHANNELS_LAST": p.channels_last,
        "BIG": p.big,
        "ACC": _wide_type(dtype),
    }


def _wide_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if wide(dtype) == torch.float64 else tl.float32


def _run(
    name: str,
    programs: int,
    arguments: tuple[Tensor | int | None, ...],
    constants: dict[str, Any],
    warps: int,
) -> None:
    from agehpc_kernels import triton_kernels, triton_shared

    kernel = getattr(triton_shared if name in ("combine", "add_up") else triton_kernels, name)
    run(Launch(kernel, programs, arguments, constants, warps))


def _empty(x: Tensor, dtype: torch.dtype, rows: int) -> Tensor:
    return x.new_empty((rows, x.shape[1]), dtype=dtype)


def _no_moments(x: Tensor) -> Tensor:
    return x.new_zeros((3, x.shape[1]), dtype=torch.float64)
