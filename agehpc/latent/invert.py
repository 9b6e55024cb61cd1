"""Inversion: the latents from which a generator comes closest to given samples.

Shapes: B batch, C channels, S (H, W) or (T, H, W), Z latent size, N starting points.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from agehpc.models.prior import MOMENTS, Prior
from agehpc.trained import Model

Loss = Literal["mse", "l1"]
Objective = Callable[[Tensor], Tensor]
"""Generated samples [B, C, S] in [-1, 1] to a loss for each: [B]."""


def distance(loss: Loss, y_BCS: Tensor, x_BCS: Tensor) -> Tensor:
    """Mean squared (`mse`) or absolute (`l1`) difference of each sample: [B]."""
    difference = (y_BCS - x_BCS).flatten(1)
    return difference.square().mean(1) if loss == "mse" else difference.abs().mean(1)


def departure(z_BZ: Tensor, prior: Prior) -> Tensor:
    """Mean over dimensions of ((z - mean) / deviation)^2 under the prior: [B], about 1 for draws.

    For a Gaussian prior it is -2 log p(z) / Z up to a constant.
    """
    mean, variance = MOMENTS[prior]
    return (z_BZ - mean).square().mean(1) / variance


def optimise(
    model: Model,
    start_BZ: Tensor,
    objective: Objective,
    *,
    steps: int,
    lr: float,
    prior_weight: float = 0.0,
    labels_B: Tensor | None = None,
    from_prior: bool = False,
) -> Tensor:
    """Latents [B, Z] that lower objective(G(z)) + prior_weight * departure(z) of each sample.

    Adam with betas (0.9, 0.999) and a learning rate that falls from `lr` to 0 as a cosine. Each
    sample is optimised on its own, so that the batch does not matter, and keeps the best latent
    that it met, its start included.
    """
    z_BZ = start_BZ.detach().clone().requires_grad_(True)
    best_BZ = start_BZ.detach().clone()
    least_B = torch.full((len(z_BZ),), math.inf, device=z_BZ.device)
    adam = torch.optim.Adam([z_BZ], lr=lr)
    for step in range(steps + 1):
        y_BCS = model.generate(z_BZ, labels_B, from_prior=from_prior)
        loss_B = objective(y_BCS)
        if prior_weight > 0:
            loss_B = loss_B + prior_weight * departure(z_BZ, model.config.model.prior)
        better_B = loss_B.detach() < least_B
        least_B = torch.where(better_B, loss_B.detach(), least_B)
        best_BZ = torch.where(better_B[:, None], z_BZ.detach(), best_BZ)
        if step == steps:
            break
        adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        (z_BZ.grad,) = torch.autograd.grad(loss_B.sum(), z_BZ)
        adam.step()
    return best_BZ


def invert(
    model: Model,
    x_BCS: Tensor,
    start_BZ: Tensor,
    *,
    steps: int = 200,
    lr: float = 0.05,
    loss: Loss = "mse",
    prior_weight: float = 0.0,
    labels_B: Tensor | None = None,
    from_prior: bool = False,
) -> Tensor:
    """Latents [B, Z] from which G comes closer to x than from `start_BZ`.

    Args:
        model: with a generator.
        x_BCS: samples in [-1, 1].
        start_BZ: where to start: E(x), or :func:`nearest_draws`.
        steps: steps of Adam.
        lr: first learning rate.
        loss: distance of G(z) to x on pixels in [-1, 1].
        prior_weight: weight of :func:`departure`, which keeps latents likely.
        labels_B: classes, for a conditional generator.
        from_prior: the latents start from draws, not from E(x).
    """
    x_BCS = x_BCS.to(model.device)
    return optimise(
        model,
        start_BZ,
        lambda y_BCS: distance(loss, y_BCS, x_BCS),
        steps=steps,
        lr=lr,
        prior_weight=prior_weight,
        labels_B=labels_B,
        from_prior=from_prior,
    )


def start(
    model: Model,
    x_BCS: Tensor,
    *,
    starts: int,
    seed: int,
    labels_B: Tensor | None = None,
) -> Tensor:
    """Where to start: E(x), or of a model without an encoder the nearest of some draws."""
    if model.can("encode"):
        return model.encode(x_BCS)
    x_BCS = x_BCS.to(model.device)
    return nearest_draws(
        model,
        lambda y_BCS: distance("mse", y_BCS, x_BCS),
        len(x_BCS),
        starts=starts,
        seed=seed,
        labels_B=labels_B,
    )


@torch.no_grad()
def nearest_draws(
    model: Model,
    objective: Objective,
    count: int,
    *,
    starts: int,
    seed: int,
    labels_B: Tensor | None = None,
) -> Tensor:
    """For each of `count` samples the best of `starts` draws from the prior: [count, Z].

    The n-th draw is the same for all samples, and that of `Model.noise`.
    """
    z_NZ = model.noise(starts, seed)
    losses = []
    for z_Z in z_NZ:
        if labels_B is None:  # the same sample for all
            y_BCS = model.decode(z_Z[None], from_prior=True)
            y_BCS = y_BCS.expand(count, *y_BCS.shape[1:])
        else:
            y_BCS = model.decode(z_Z.expand(count, -1), labels_B, from_prior=True)
        losses.append(objective(y_BCS))
    return z_NZ[torch.stack(losses).argmin(0)]
