"""Distances of a reconstruction to its sample."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reconstruction = Literal["l1", "mse"]


def reconstruction_loss(kind: Reconstruction, y: Tensor, x: Tensor) -> Tensor:
    """Mean absolute (`l1`) or squared (`mse`) difference over all elements: a scalar."""
    return F.l1_loss(y, x) if kind == "l1" else F.mse_loss(y, x)
