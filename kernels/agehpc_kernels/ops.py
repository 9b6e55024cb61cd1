"""The backends' functions as registered operators of torch, chosen by tensor.

torch.ops.agehpc_kernels.{moments, apply, forward, backward_sums, backward_apply, backward,
backward_fixed}: functional, without autograd (that is in fused.py), with fakes for torch.compile
and meta tensors. Meaning and shapes are those of by_aten.py, the form spelt out as `slope, order,
save`; here tensors may have any strides. Defined over a Library rather than as custom_op, whose
calls cost more than twice as much.
"""

from typing import Any

import torch
from torch import Tensor

from agehpc_kernels.choice import chosen
from agehpc_kernels.form import Form, Order, Save, wide

_FORM = "float slope, str order, str save"
_GRADIENT = "Tensor dy, Tensor kept, Tensor stats_3C, Tensor? weight, Tensor? bias"
_SCHEMAS = {
    "moments": f"(Tensor x, {_FORM}) -> Tensor",
    "apply": f"(Tensor x, Tensor stats_3C, Tensor? weight, Tensor? bias, {_FORM}) -> Tensor",
    "forward": f"(Tensor x, Tensor? weight, Tensor? bias, float eps, {_FORM}) "
    "-> (Tensor, Tensor, Tensor)",
    "backward_sums": f"({_GRADIENT}, {_FORM}) -> Tensor",
    "backward_apply": f"({_GRADIENT}, Tensor means_2C, {_FORM}) -> Tensor",
    "backward": f"({_GRADIENT}, {_FORM}) -> (Tensor, Tensor)",
    "backward_fixed": f"({_GRADIENT}, {_FORM}) -> (Tensor, Tensor)",
}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LIBRARY = torch.library.Library("agehpc_kernels", "DEF")


def dense(x: Tensor) -> Tensor:
    """Return x, copied where it is neither contiguous nor channels last.

    Strides of dimensions of size 1, which say nothing, become the usual ones: by some of them
    torch 2.14's batch_norm on the CPU returns wrong gradients.
    """
    if x.is_contiguous() and 1 not in x.shape:
        return x
    cl = _FORMATS.get(x.dim())
    last = cl is not None and x.is_contiguous(memory_format=cl) and not x.is_contiguous()
    form = cl if cl is not None and last else torch.contiguous_format
    if 1 not in x.shape:
        return x.contiguous(memory_format=form)
    usual = torch.empty(x.shape, memory_format=form, device="meta").stride()
    return x if x.stride() == usual else x.clone(memory_format=form)


def moments(x: Tensor, slope: float, order: Order, save: Save) -> Tensor:
    """Run the backend's `moments`."""
    x, form = dense(x), Form(slope, order, save)
    return chosen(x, form).moments(x, form)


def apply(
    x: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: float,
    order: Order,
    save: Save,
) -> Tensor:
    """Run the backend's `apply`."""
    x, form = dense(x), Form(slope, order, save)
    return chosen(x, form).apply(x, stats_3C, weight, bias, form)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    slope: float,
    order: Order,
    save: Save,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backend's `forward`."""
    x, form = dense(x), Form(slope, order, save)
    return chosen(x, form).forward(x, weight, bias, eps, form)


def _backward(name: str) -> Any:
    """Return what runs one of the backward functions, whose arguments begin alike."""

    def run(dy: Tensor, kept: Tensor, *arguments: Any) -> Any:
        *tensors, slope, order, save = arguments
        kept, form = dense(kept), Form(slope, order, save)
        return getattr(chosen(kept, form), name)(_laid_out_as(dy, kept), kept, *tensors, form)

    return run


def _laid_out_as(dy: Tensor, kept: Tensor) -> Tensor:
    # A gradient may be expanded (stride 0: that of a sum), or in another memory format than kept.
    if dy.stride() == kept.stride():
        return dy
    return torch.empty_like(kept).copy_(dy)


def _fake_moments(x: Tensor, *form: Any) -> Tensor:
    return x.new_empty(3, x.shape[1], dtype=torch.float64)


def _fake_apply(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(dense(x))


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    stats_3C = x.new_empty(3, x.shape[1], dtype=wide(x.dtype))
    return _fake_apply(x), _fake_moments(x), stats_3C


def _fake_sums(dy: Tensor, *rest: Any) -> Tensor:
    return dy.new_empty(2, dy.shape[1], dtype=torch.float64)


def _fake_gradient(dy: Tensor, kept: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(dense(kept))


def _fake_backward(dy: Tensor, kept: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_gradient(dy, kept), _fake_sums(dy)


BODIES = {"moments": moments, "apply": apply, "forward": forward} | {
    name: _backward(name) for name in _SCHEMAS if name.startswith("backward")
}
_FAKES = {
    "moments": _fake_moments,
    "apply": _fake_apply,
    "forward": _fake_forward,
    "backward_sums": _fake_sums,
    "backward_apply": _fake_gradient,
    "backward": _fake_backward,
    "backward_fixed": _fake_backward,
}
for _name, _schema in _SCHEMAS.items():
    LIBRARY.define(_name + _schema, tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(_name, BODIES[_name], "CompositeExplicitAutograd")
    torch.library.register_fake(f"agehpc_kernels::{_name}", _FAKES[_name], lib=LIBRARY)
registered = torch.ops.agehpc_kernels
