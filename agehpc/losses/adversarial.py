"""Losses of the two-player game, as functions of logits [B] (larger is more real).

Each function averages over the batch and returns a scalar.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Adversarial = Literal["non_saturating", "hinge", "lsgan"]


def critic_loss(kind: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """What a discriminator minimises.

    `non_saturating`: softplus(-real) + softplus(fake) (Goodfellow et al. 2014); `hinge`:
    relu(1 - real) + relu(1 + fake) (Lim and Ye 2017); `lsgan`: (real - 1)^2 / 2 + fake^2 / 2
    (Mao et al. 2017).
    """
    if kind == "non_saturating":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """What the discriminated player minimises: softplus(-fake), -fake, or (fake - 1)^2 / 2."""
    if kind == "non_saturating":
        return F.softplus(-fake).mean()
    if kind == "hinge":
        return -fake.mean()
    return 0.5 * (fake - 1).square().mean()
