"""The derivatives of the fused operation: two autograd Functions over the registered operators.

N samples, C channels, * any spatial dimensions, u the input of the norm (x, or LeakyReLU(x)).
Backward is a Function of its own whose derivative is composed from plain torch, so that gradient
penalties work. It takes the statistics as inputs and forward returns them as outputs: the gradient
that a penalty sends to them goes back to x through forward's node. So backward needs no more of x
than `kept`, which is x or y alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agehpc_kernels import by_aten, ranks
from agehpc_kernels.collective import all_reduce_sum
from agehpc_kernels.form import Form, Order, Save, statistics, wide
from agehpc_kernels.ops import LIBRARY, registered


@dataclass(frozen=True)
class Setting:
    """What does not change between forward and the backward passes."""

    form: Form
    eps: float
    fixed: bool  # the statistics do not depend on x
    sync: bool
    group: dist.ProcessGroup | None

    @property
    def spelt(self) -> tuple[float, Order, Save]:
        """The form as the registered operators take it."""
        return self.form.slope, self.form.order, self.form.save


class Forward(torch.autograd.Function):
    """x, weight, bias, fixed statistics or None, setting: y, statistics and moments or None."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        fixed_3C: Tensor | None,
        setting: Setting,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return y, and in training the statistics and the moments they come from."""
        spelt, count_C = setting.spelt, None
        if fixed_3C is not None:
            stats_3C, moments_3C = fixed_3C, None
            y = registered.apply(x, stats_3C, weight, bias, *spelt)
        elif setting.sync:
            moments_3C = ranks.combined(registered.moments(x, *spelt), setting.group)
            stats_3C = statistics(moments_3C, setting.eps, wide(x.dtype))
            count_C = moments_3C[0].clamp(min=1)
            y = registered.apply(x, stats_3C, weight, bias, *spelt)
        else:
            y, moments_3C, stats_3C = registered.forward(x, weight, bias, setting.eps, *spelt)
        ctx.setting = setting
        kept = x if setting.form.save == "input" else y
        # The parameters themselves: ZeRO-3 frees and gathers their memory in between.
        ctx.save_for_backward(kept, stats_3C, weight, bias, count_C)
        if setting.fixed:
            return y, None, None
        if torch.compiler.is_compiling():
            # Compiled graphs are differentiated once: nothing ever asks for this gradient.
            ctx.mark_non_differentiable(stats_3C, moments_3C)
        else:
            ctx.mark_non_differentiable(moments_3C)
            ctx.set_materialize_grads(False)
        return y, stats_3C, moments_3C

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of x, weight and bias."""
        kept, stats_3C, weight, bias, count_C = ctx.saved_tensors
        dy, dstats_3C = grads[:2]
        arguments = (kept, stats_3C, weight, bias, count_C, ctx.setting, ctx.needs_input_grad[0])
        if torch.compiler.is_compiling():
            dx, sums_2C = _first_order(dy, None, *arguments)
        else:
            dy = torch.zeros_like(kept) if dy is None else dy
            dx, sums_2C = _Backward.apply(dy, dstats_3C, *arguments)  # type: ignore[misc]
        dweight = None if weight is None else sums_2C[1].to(weight.dtype)
        dbias = None if bias is None else sums_2C[0].to(bias.dtype)
        return dx, dweight, dbias, None, None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, Tensor]:
        *tensors, ctx.setting, ctx.wants_dx = arguments
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return _first_order(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        with torch.enable_grad():
            # Views of the saved tensors: derivatives stop there and do not run on from the
            # statistics to x, yet lead back to what was saved for a third differentiation.
            inputs: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            outputs = _composed(*inputs, setting=ctx.setting, wants_dx=ctx.wants_dx)
        pairs: list[tuple[Any, Any]] = [
            (o, g) for o, g in zip(outputs, grads, strict=True) if g is not None
        ]
        wanted = [i for i, t in enumerate(inputs) if t is not None and t.requires_grad]
        found: list[Tensor | None] = [None] * (len(inputs) + 2)
        if pairs:
            derivatives = torch.autograd.grad(
                [o for o, _ in pairs],
                [inputs[i] for i in wanted],
                [g for _, g in pairs],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            for i, derivative in zip(wanted, derivatives, strict=True):
                found[i] = derivative
        return tuple(found)


def filled(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return both or neither: backends know no other case."""
    if weight is not None and bias is None:
        return weight, torch.zeros_like(weight)
    if weight is None and bias is not None:
        return torch.ones_like(bias), bias
    return weight, bias


def differentiable_backward(
    dy: Tensor,
    dstats_3C: Tensor | None,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: float,
    order: Order,
    save: Save,
) -> tuple[Tensor, Tensor]:
    """Return what `Forward.backward` makes of a rank's own batch: dx and the sums [2, C]."""
    setting = Setting(Form(slope, order, save), eps=0.0, fixed=False, sync=False, group=None)
    given = dy, dstats_3C, kept, stats_3C, *filled(weight, bias)
    return _Backward.apply(*given, None, setting, True)  # type: ignore[misc]


# A backend with a node of its own in autograd calls it from there.
LIBRARY.define(
    "differentiable_backward(Tensor dy, Tensor? dstats_3C, Tensor kept, Tensor stats_3C, "
    "Tensor? weight, Tensor? bias, float slope, str order, str save) -> (Tensor, Tensor)"
)
LIBRARY.impl("differentiable_backward", differentiable_backward, "CompositeImplicitAutograd")


def _first_order(
    dy: Tensor,
    dstats_3C: Tensor | None,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count_C: Tensor | None,
    setting: Setting,
    wants_dx: bool,
) -> tuple[Tensor | None, Tensor]:
    """Return dx, if wanted, and the sums by the fastest way."""
    if dstats_3C is not None:
        return _composed(dy, dstats_3C, kept, stats_3C, weight, bias, count_C, setting, wants_dx)
    spelt, given = setting.spelt, (dy, kept, stats_3C, weight, bias)
    if not wants_dx:
        return None, registered.backward_sums(*given, *spelt)
    if setting.fixed:
        return registered.backward_fixed(*given, *spelt)
    if count_C is None:
        return registered.backward(*given, *spelt)
    sums_2C = registered.backward_sums(*given, *spelt)
    means_2C = all_reduce_sum(sums_2C, setting.group) / count_C
    return registered.backward_apply(*given, means_2C, *spelt), sums_2C


def _composed(
    dy: Tensor,
    dstats_3C: Tensor | None,
    kept: Tensor,
    stats_3C: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count_C: Tensor | None,
    setting: Setting,
    wants_dx: bool,
) -> tuple[Tensor | None, Tensor]:
    """Return the same in differentiable steps, with what a gradient of the statistics adds to dx.

    That of the mean is in the first row of `dstats_3C` (the second is the rounding of the first),
    that of 1 / deviation in the third: du = (dmean - inverse**2 * x_hat * dinverse) / count.
    """
    g, x_hat, factor = by_aten.parts(dy, kept, stats_3C, weight, bias, setting.form)
    dims = [0, *range(2, g.dim())]
    sums_2C = torch.stack([part.sum(dims, dtype=torch.float64) for part in (g, g * x_hat)])
    if not wants_dx:
        return None, sums_2C
    inverse = stats_3C[2]
    scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
    if setting.fixed:
        return (g * _per_channel(scale, g) * factor).to(dy.dtype), sums_2C
    if dstats_3C is None:
        dstats_3C = torch.zeros_like(stats_3C)
    totals_4C = torch.cat([sums_2C, dstats_3C[::2].double()])
    if count_C is None:
        means_4C = totals_4C / max(g.numel() // max(g.shape[1], 1), 1)
    else:
        means_4C = all_reduce_sum(totals_4C, setting.group) / count_C
    first, second, dmean, dinverse = means_4C.to(g.dtype)
    constant, linear = first * scale - dmean, second * scale + inverse.square() * dinverse
    du = g * _per_channel(scale, g) - _per_channel(constant, g) - x_hat * _per_channel(linear, g)
    return (du * factor).to(dy.dtype), sums_2C


def _per_channel(values_C: Tensor, x: Tensor) -> Tensor:
    return values_C.view(1, -1, *(1,) * (x.dim() - 2))
