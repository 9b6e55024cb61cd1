"""Distances of a reconstruction to its sample. Shapes: B batch, ... a sample's own."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reconstruction = Literal["l1", "mse", "bce"]


def reconstruction_loss(kind: Reconstruction, y: Tensor, x: Tensor) -> Tensor:
    """Mean over all elements of a distance of `y` to `x`: a scalar.

    Args:
        kind: `l1` absolute difference; `mse` squared difference; `bce` binary cross entropy in
            nats, for which `y` are logits and `x` lies in [0, 1].
        y: the reconstruction [B, ...], floating.
        x: the sample, in the same shape.
    """
    if kind == "l1":
        return F.l1_loss(y, x)
    if kind == "mse":
        return F.mse_loss(y, x)
    return F.binary_cross_entropy_with_logits(y, x)


def bernoulli_nats(logits: Tensor, target01: Tensor) -> Tensor:
    """-ln p(x) of independent Bernoulli pixels: summed over a sample, averaged over the batch.

    Args:
        logits: [B, ...], floating.
        target01: the same shape, in [0, 1]; values between are taken as probabilities of a 1.

    Returns:
        A scalar in nats a sample.
    """
    return F.binary_cross_entropy_with_logits(logits, target01, reduction="sum") / len(logits)
