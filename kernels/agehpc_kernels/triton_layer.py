"""A layer in training by Triton kernels, with as little around them as Python allows.

The way of `derivatives.Forward` over the registered operators costs the host three times as much,
and on a fast GPU it is the host that most layers wait for: here running statistics are moved by
the kernels, gradients come in the parameters' dtype, and launches are kept ready.
"""

from typing import Any

import torch
from torch import Tensor

from agehpc_kernels import by_triton
from agehpc_kernels.derivatives import differentiable_backward, filled
from agehpc_kernels.form import Form


def layer(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    slope: float,
    first: bool,
    output: bool,
) -> Tensor:
    """Return y, as by_cpp's `layer`. Running statistics are contiguous float32, moved in place."""
    form = Form(
        slope,
        "activation_first" if first else "norm_first",
        "output" if output else "input",
    )
    running = None
    if running_mean is not None and running_var is not None:
        running = running_mean, running_var, float(momentum)
    return _Layer.apply(x, *filled(weight, bias), eps, form, running)[0]  # type: ignore[index]


class _Layer(torch.autograd.Function):
    """The statistics are an output, so that what a penalty sends to them comes back to x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        form: Form,
        running: by_triton.Running | None,
    ) -> tuple[Tensor, Tensor]:
        y, stats_3C = by_triton.forward_moving(x, weight, bias, eps, form, running)
        if running is not None:  # kernels write past what watches over writing
            torch.autograd.graph.increment_version(running[:2])
        # The parameters themselves: ZeRO-3 frees and gathers their memory in between.
        ctx.save_for_backward(x if form.save == "input" else y, stats_3C, weight, bias)
        ctx.form = form
        ctx.set_materialize_grads(False)
        return y, stats_3C

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        dy, dstats_3C = grads
        kept, stats_3C, weight, bias = ctx.saved_tensors
        form: Form = ctx.form
        if dy is None:
            dy = torch.zeros_like(kept)
        given = dy, kept, stats_3C, weight, bias
        # Without storage: many gradients at once, under vmap, which operators take apart.
        plain = dstats_3C is None and torch._C._has_storage(dy)
        if torch.is_grad_enabled() or not plain:
            spelt = form.slope, form.order, form.save
            dx, sums_2C = differentiable_backward(dy, dstats_3C, *given[1:], *spelt)
        elif ctx.needs_input_grad[0]:
            dtype = torch.float64
            if weight is not None and bias is not None and weight.dtype == bias.dtype:
                dtype = weight.dtype
            dx, sums_2C = by_triton.backward(*given, form, dtype)
        else:
            dx, sums_2C = None, by_triton.backward_sums(*given, form)
        dweight = None if weight is None else sums_2C[1].to(weight.dtype)
        dbias = None if bias is None else sums_2C[0].to(bias.dtype)
        return dx, dweight, dbias, None, None, None
