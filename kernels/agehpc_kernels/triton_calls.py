"""The launches of by_triton but for their tensors: each is made once for a plan and a form.

They hold a few constants and what Triton compiled; what they launch is in `triton_kernels` and
`triton_shared`, which this module is the first to import, and Triton with them.
"""

import functools
from typing import Any

import torch
import triton.language as tl

from agehpc_kernels import triton_kernels, triton_shared
from agehpc_kernels.form import Form
from agehpc_kernels.triton_launch import Call
from agehpc_kernels.triton_plan import PARTS, Plan, Tile, power_of_2

_kept = functools.lru_cache(maxsize=4096)


@_kept
def moments(p: Plan, form: Form) -> Call:
    """x, parts."""
    return _over_tiles("moments", p, _forward(form), p.tiles, p.per_program)


@_kept
def combine(p: Plan, eps: float | None) -> Call:
    """parts, moments, statistics, running mean and variance, momentum."""
    return _over_channels("combine", p, (), {"EPS": eps, "ACC": _type(p.wide)})


@_kept
def apply(p: Plan, form: Form) -> Call:
    """x, y, statistics, weight, bias."""
    return _over_tiles("apply", p, _forward(form))


@_kept
def forward_once(p: Plan, form: Form, eps: float) -> Call:
    """x, y, moments, statistics, weight, bias, running mean and variance, momentum."""
    return _whole("forward_once", p, p.forward_once, _forward(form) | {"EPS": eps})


@_kept
def move_by(p: Plan) -> Call:
    """moments, running mean and variance, momentum."""
    channels = p.shape[1]
    columns = min(power_of_2(channels), 128)
    programs = -(-channels // columns)
    return Call(triton_shared.move_by, programs, (channels,), {"COLUMNS": columns}, 1)


@_kept
def sums(p: Plan, form: Form) -> Call:
    """dy, kept, dx, statistics, weight, bias, parts."""
    return _over_tiles("sums", p, _backward(form), p.tiles, p.per_program)


@_kept
def add_up(p: Plan) -> Call:
    """parts, sums, means."""
    n, _, s = p.shape
    return _over_channels("add_up", p, (n * s,), {})


@_kept
def apply_backward(p: Plan, form: Form) -> Call:
    """dy, kept, dx, statistics, weight, bias, means."""
    return _over_tiles("apply_backward", p, _backward(form))


@_kept
def backward_once(p: Plan, form: Form) -> Call:
    """dy, kept, dx, statistics, weight, bias, sums."""
    return _whole("backward_once", p, p.backward_once, _backward(form))


def _over_tiles(name: str, p: Plan, constants: dict[str, Any], *integers: int) -> Call:
    """A program a tile; with `integers` (tiles, per_program) a program a part."""
    programs = p.groups * (p.parts if integers else p.tiles)
    kernel = getattr(triton_kernels, name)
    return Call(
        kernel, programs, (*p.shape, *integers), constants | _layout(p, p.tile), p.tile.warps
    )


def _whole(name: str, p: Plan, tile: Tile | None, constants: dict[str, Any]) -> Call:
    """A program a group, which is one tile."""
    assert tile is not None
    channels = p.shape[1]
    programs = -(-channels // tile.columns) if p.channels_last else channels
    kernel = getattr(triton_kernels, name)
    return Call(kernel, programs, p.shape, constants | _layout(p, tile), tile.warps)


def _over_channels(name: str, p: Plan, more: tuple[int, ...], constants: dict[str, Any]) -> Call:
    channels = p.shape[1]
    rows = power_of_2(p.parts)
    columns = min(power_of_2(channels), max(1, PARTS // rows), 128)
    constants = {**constants, "ROWS": rows, "COLUMNS": columns}
    kernel = getattr(triton_shared, name)
    return Call(kernel, -(-channels // columns), (channels, p.parts, *more), constants, 8)


def _forward(form: Form) -> dict[str, Any]:
    return {"SLOPE": form.slope, "ACTIVATION_FIRST": form.order == "activation_first"}


def _backward(form: Form) -> dict[str, Any]:
    assert form.save == "input" or form.slope > 0, "x cannot be found again from y"
    return _forward(form) | {"FROM_OUTPUT": form.save == "output"}


def _layout(p: Plan, tile: Tile) -> dict[str, Any]:
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "CHANNELS_LAST": p.channels_last,
        "BIG": p.big,
        "ACC": _type(p.wide),
    }


def _type(wide: torch.dtype) -> Any:
    return tl.float64 if wide == torch.float64 else tl.float32
