"""Penalties on a discriminator. Shapes: B batch, C channels, S (H, W) or (T, H, W).

Where a discriminator answers with a map [B, h, w], D(x) is the sum of a sample's map in the R1
penalties: each patch is then held as if it stood alone, whatever the size of the map. In the
gradient penalty it is the mean, which is what the Wasserstein loss takes: the norm of 1 belongs to
the function that the loss averages.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def r1_penalty(real_logits: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D(x)|^2 (Mescheder et al. 2018), without gamma / 2.

    Exact: it is differentiated once more in the backward pass.

    Args:
        real_logits: [B] or [B, h, w] (summed over the map), computed from `x`.
        x: [B, ...], requires grad.

    Returns:
        A scalar, connected to the discriminator's graph.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def finite_difference_penalty(logits: Tensor, disturbed_logits: Tensor, sigma: float) -> Tensor:
    """Mean over the batch of ((D(x + sigma n) - D(x)) / sigma)^2, with n ~ N(0, I).

    Its mean over n is the R1 penalty up to O(sigma^2), and exactly that where D is linear; it
    needs no second derivative (Lin et al. 2025, approximated R1). Compute both logits in float32:
    their difference is what bfloat16 rounds away.

    Args:
        logits: D(x), [B] or [B, h, w] (summed over the map).
        disturbed_logits: D(x + sigma n), in the same shape.
        sigma: standard deviation of the disturbance, in units of `x`; above 0.

    Returns:
        A scalar, connected to both graphs.
    """
    assert sigma > 0, sigma
    difference_B = (disturbed_logits - logits).reshape(len(logits), -1).sum(1)
    return (difference_B / sigma).square().mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix_B: Tensor
) -> Tensor:
    """Mean over the batch of (|grad D(x)|_2 - 1)^2, x between real and fake, without lambda.

    WGAN-GP (Gulrajani et al. 2017): x = mix * real + (1 - mix) * fake, a mix for each sample, the
    norm over all of a sample's elements. Differentiated once more in the backward pass; neither
    `real` nor `fake` gets a gradient.

    Args:
        critic: x [B, C, S] to logits [B] or [B, h, w] (averaged over the map). It must not mix
            samples: no batch statistics.
        real: [B, C, S], floating.
        fake: [B, C, S].
        mix_B: uniform on [0, 1).

    Returns:
        A scalar, connected to the critic's graph.
    """
    share = mix_B.view(-1, *(1,) * (real.dim() - 1))
    x_BCS = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_(True)
    logits = critic(x_BCS)
    value = logits.sum() * (len(logits) / logits.numel())
    (gradient,) = torch.autograd.grad(value, x_BCS, create_graph=True)
    # vector_norm's derivative at 0 is 0, not NaN: a critic that has gone flat stays finite.
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
