"""Latents of a whole split: features of a data set, and how well they match the prior.

Shapes: B batch, C channels, S (H, W) or (T, H, W), N samples, Z latent size.
"""

from collections.abc import Iterable

import numpy as np
import torch

from agehpc.data.loader import Batch
from agehpc.data.pixels import to_float
from agehpc.latent.codes import Codes, Origin, join
from agehpc.losses.latent import moment_loss
from agehpc.models.prior import MOMENTS, Prior
from agehpc.trained import Model


def encode(model: Model, batches: Iterable[Batch], origin: Origin) -> Codes:
    """E(x) of every sample: the latents with labels and positions."""
    return join([encode_batch(model, batch, origin) for batch in batches])


def encode_batch(model: Model, batch: Batch, origin: Origin) -> Codes:
    """E(x) of a batch."""
    z_BZ = model.encode(to_float(batch.pixels)).float().cpu()
    return Codes(z_BZ.numpy(), batch.labels.numpy(), batch.positions.numpy(), origin)


def moments_match(z_NZ: np.ndarray, prior: Prior) -> dict[str, float]:
    """How close the moments of latents are to the prior's.

    Returns:
        `mean` and `variance` averaged over the dimensions, and `moment_distance`, the mean over
        dimensions of the squared distances of mean and variance to the prior's (what training
        calls the moment loss).
    """
    z = torch.from_numpy(z_NZ).double()
    m_Z, v_Z = z.mean(0), z.var(0, correction=0)
    return {
        "mean": float(m_Z.mean()),
        "variance": float(v_Z.mean()),
        "moment_distance": float(moment_loss(m_Z, v_Z, *MOMENTS[prior])),
    }
