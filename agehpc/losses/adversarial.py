"""Losses of the two-player game, as functions of logits (larger is more real).

Logits are [B], or maps [B, h, w] of a discriminator that judges patches (Isola et al. 2017); a
loss is the mean over all of their elements, a scalar.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["non_saturating", "hinge", "lsgan", "wasserstein"]


def critic_loss(kind: Adversarial, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """What a discriminator minimises.

    `non_saturating`: softplus(-real) + softplus(fake) (Goodfellow et al. 2014); `hinge`:
    relu(1 - real) + relu(1 + fake) (Lim and Ye 2017); `lsgan`: (real - 1)^2 / 2 + fake^2 / 2
    (Mao et al. 2017); `wasserstein`: fake - real (Arjovsky et al. 2017).

    Args:
        kind: which game.
        real: logits of real samples, floating.
        fake: logits of generated ones.
        smoothing: s of one-sided label smoothing (Salimans et al. 2016): real samples have the
            target 1 - s in place of 1. Only `non_saturating` (where the loss of the real logits
            is the binary cross entropy with that target) and `lsgan` have a target to smooth.
    """
    assert smoothing == 0 or kind in ("non_saturating", "lsgan"), (kind, smoothing)
    if kind == "non_saturating":
        # (1 - s) softplus(-a) + s softplus(a), as softplus(a) = softplus(-a) + a.
        return (F.softplus(-real) + smoothing * real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "lsgan":
        return 0.5 * ((real - (1 - smoothing)).square().mean() + fake.square().mean())
    return fake.mean() - real.mean()


def encoder_loss(kind: Adversarial, real: Tensor) -> Tensor:
    """What an encoder minimises whose pairs (x, E(x)) are judged as real: to pass for generated.

    The generated side of `critic_loss` (Dumoulin et al. 2017); real for `hinge`, as the
    generator's loss is -fake.
    """
    if kind == "non_saturating":
        return F.softplus(real).mean()
    if kind == "lsgan":
        return 0.5 * real.square().mean()
    return real.mean()


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """What the judged player minimises: softplus(-fake), -fake, or (fake - 1)^2 / 2.

    `hinge` and `wasserstein` share -fake.
    """
    if kind == "non_saturating":
        return F.softplus(-fake).mean()
    if kind == "lsgan":
        return 0.5 * (fake - 1).square().mean()
    return -fake.mean()
