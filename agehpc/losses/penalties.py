"""Penalties on a discriminator."""

import torch
from torch import Tensor


def r1_penalty(real_logits: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D(x)|^2 (Mescheder et al. 2018), without gamma / 2.

    Exact: it is differentiated once more in the backward pass.

    Args:
        real_logits: [B], computed from `x`.
        x: [B, ...], requires grad.

    Returns:
        A scalar, connected to the discriminator's graph.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
