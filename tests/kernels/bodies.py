"""What the ranks of test_norm.py run."""

import torch
from torch import Tensor

from agehpc.cluster.groups import Ranks
from agehpc_kernels import NormLeakyReLU

SHAPE = (6, 3, 4, 5)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """The global batch, and weights of the outputs and of the input's gradient."""
    generator = torch.Generator().manual_seed(3)
    x, w, v = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3))
    return 2 * x + 5, w, v


def sync_batch(ranks: Ranks) -> dict[str, list[float]]:
    """Output, gradients and double backward of this rank's part of the global batch.

    Ranks share one loss, the sum over the global batch, whose gradient they add up themselves.
    """
    share = SHAPE[0] // ranks.env.world_size
    mine = slice(ranks.env.rank * share, (ranks.env.rank + 1) * share)
    return derivatives("sync_batch", *(t[mine] for t in inputs()))


def derivatives(norm: str, x: Tensor, w: Tensor, v: Tensor) -> dict[str, list[float]]:
    """First derivatives of sum(w * norm(x)^2), second ones of sum(v * its gradient)."""
    module = NormLeakyReLU(norm, SHAPE[1]).double()  # type: ignore[arg-type]
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        module.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    x = x.clone().requires_grad_(True)
    y = module(x)
    (g,) = torch.autograd.grad((w * y**2).sum(), x, create_graph=True)
    penalty = (v * g).sum() + g.square().sum()
    penalty.backward()
    found = {
        "y": y,
        "g": g,
        "x.grad": x.grad,
        "weight.grad": module.weight.grad,
        "bias.grad": module.bias.grad,
        "mean": module.running_mean,
        "var": module.running_var,
    }
    return {name: t.detach().flatten().tolist() for name, t in found.items() if t is not None}
