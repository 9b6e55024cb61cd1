"""Priors that latents are matched to.

Shapes: B batch, Z latent size. Draws are keyed by global sample position, so that a sample meets
the same noise wherever it is trained.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Prior = Literal["gaussian", "uniform"]
MOMENTS: dict[Prior, tuple[float, float]] = {"gaussian": (0.0, 1.0), "uniform": (0.0, 1.0 / 3.0)}
"""Mean and variance of each dimension."""


def draw(prior: Prior, generators: list[np.random.Generator], latent: int) -> Tensor:
    """One latent from each generator: float32 [B, Z] on the CPU.

    `gaussian` is N(0, I); `uniform` is uniform on [-1, 1]^Z.
    """
    if prior == "gaussian":
        rows = [g.standard_normal(latent, dtype=np.float32) for g in generators]
    else:
        rows = [g.random(latent, dtype=np.float32) * 2 - 1 for g in generators]
    return torch.from_numpy(np.stack(rows))
