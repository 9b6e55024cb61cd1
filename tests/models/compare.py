"""Networks against plain torch written from their papers: weights copied, everything compared.

Weights are copied in the order in which layers run, so that an order of layers, a stride, a
padding, a slope, a momentum or a dropout that differs shows in outputs, gradients or statistics.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from agehpc.models.blocks import DATA, PRIOR

Run = Callable[[nn.Module, Tensor], Tensor]


def run_order(network: nn.Module, run: Callable[[], Any]) -> list[nn.Module]:
    """Layers with weights, in the order in which they run."""
    order: list[nn.Module] = []
    leaves = [m for m in network.modules() if list(m.parameters(recurse=False))]
    hooks = [m.register_forward_hook(lambda m, _, __: order.append(m)) for m in leaves]
    run()
    for hook in hooks:
        hook.remove()
    assert len(order) == len(leaves), "every layer runs once"
    return order


def laid_out(theirs: nn.Module, tensor: Tensor, ours: nn.Module) -> Tensor:
    """A weight of the reference as our layer holds it: a pixel's convolution is a linear layer."""
    if isinstance(ours, nn.Linear) and isinstance(theirs, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return tensor.flatten(1).T
    return tensor.flatten(1) if isinstance(ours, nn.Linear) else tensor


def compare(ours: nn.Module, theirs: nn.Module, run: Run, x: Tensor, bank: int) -> None:
    """Outputs, all gradients, running statistics and evaluation, in float64."""
    ours, theirs, x = ours.double(), theirs.double(), x.double()
    generator = torch.Generator().manual_seed(1)
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.2 + 0.05
    with torch.no_grad():
        mine = run_order(ours.eval(), lambda: run(ours, x))
        other = run_order(theirs.eval(), lambda: theirs(x))
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            assert [n for n, _ in a.named_parameters()] == [n for n, _ in b.named_parameters()]
            for name, p in b.named_parameters():
                a.get_parameter(name).copy_(laid_out(b, p, a) if name == "weight" else p)
    inputs = [x.clone().requires_grad_(True) for _ in range(2)]
    torch.manual_seed(2)
    y = run(ours.train(), inputs[0])
    torch.manual_seed(2)
    wanted = theirs.train()(inputs[1]).reshape(y.shape)
    torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
    weights = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    for out in (y, wanted):
        (weights * out).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-7, atol=1e-9)
    for a, b in zip(mine, other, strict=True):
        for name, p in b.named_parameters():
            assert p.grad is not None
            grad = laid_out(b, p.grad, a) if name == "weight" else p.grad
            # A norm takes the mean away: sums that cancel leave rounding of their terms.
            torch.testing.assert_close(a.get_parameter(name).grad, grad, rtol=1e-7, atol=1e-8)
        if isinstance(b, nn.modules.batchnorm._BatchNorm):
            torch.testing.assert_close(a.get_buffer("running_mean")[bank], b.running_mean)
            torch.testing.assert_close(a.get_buffer("running_var")[bank], b.running_var)
    y, wanted = run(ours.eval(), x), theirs.eval()(x)
    torch.testing.assert_close(y, wanted.reshape(y.shape), rtol=1e-9, atol=1e-9)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def from_latent(network: nn.Module, z: Tensor) -> Tensor:
    return network(z, PRIOR)


def judge(network: nn.Module, x: Tensor) -> Tensor:
    return network(x, DATA)[0]


def translate(network: nn.Module, x: Tensor) -> Tensor:
    return network(x, DATA)
