"""What holds of a layer with a node of its own in autograd, whatever backend it is of."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from agehpc_kernels import bn_leaky_relu
from agehpc_kernels.form import Save
from tests.kernels.forms import reference

Draw = Callable[[tuple[int, ...], int, torch.dtype], Tensor]
"""Normal values of a shape, by a seed, of a dtype."""


def check_second_derivatives(draw: Draw, affine: str, order: str, save: Save) -> None:
    """Of a penalty on the gradients and on y: y's part comes back through the statistics too."""
    x, dy = (draw((4, 20, 6, 6), seed, torch.float64) for seed in (1, 2))
    given = {"x": x}
    given |= {n: draw((20,), 3, torch.float64) for n in ("weight", "bias") if affine in (n, "both")}
    options = {"slope": 0.2, "order": order, "eps": 1e-3, "training": True, "momentum": 0.0}
    ones = torch.ones_like(x[0, :, 0, 0])  # torch's second derivative fails on a bias alone
    sides = []
    for run, filling in ((partial(bn_leaky_relu, save=save), None), (reference, ones)):
        own = {name: t.clone().requires_grad_() for name, t in given.items()}
        arguments = own["x"], own.get("weight", filling), own.get("bias"), None, None
        y = run(*arguments, **options)  # type: ignore[operator]
        first = torch.autograd.grad(y, list(own.values()), dy, create_graph=True)
        penalty = sum(g.square().sum() for g in first) + y.pow(3).sum()
        second = torch.autograd.grad(penalty, list(own.values()))
        sides.append([t.detach() for t in (*first, *second)])
    for found, wanted in zip(*sides, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7 * float(wanted.abs().max()))


def check_many_gradients(draw: Draw, frozen: bool) -> None:
    """As in a vectorised Jacobian: what autograd sends is no tensor with memory."""
    x, dy = (draw((4, 20, 6, 6), seed, torch.float64) for seed in (1, 2))
    weight, bias = (draw((20,), seed, torch.float64).requires_grad_() for seed in (3, 4))
    leaves = [weight, bias, *([] if frozen else [x.requires_grad_()])]
    y = bn_leaky_relu(x, weight, bias)
    many = torch.stack([dy, dy.square()])
    found = torch.autograd.grad(y, leaves, many, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, leaves, each, retain_graph=True) for each in many]
    for all_at_once, singly in zip(found, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(all_at_once, torch.stack(singly))
