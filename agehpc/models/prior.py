"""Priors that latents are matched to.

Shapes: B batch, Z latent size, K modes. Draws are keyed by global sample position, so that a
sample meets the same noise wherever it is trained.

Another prior is one function from a generator and Z to a float32 row, its entry in `PRIORS` and in
`MOMENTS`, and its name in `Prior` and in the configuration's.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Prior = Literal["gaussian", "uniform", "sphere", "mixture"]
MODES = 10  # of the mixture
MODE_RMS = 0.9  # root mean square over modes of each dimension of their means


def draw(prior: Prior, generators: list[np.random.Generator], latent: int) -> Tensor:
    """One latent from each generator: float32 [B, Z] on the CPU.

    `gaussian` is N(0, I); `uniform` is uniform on [-1, 1]^Z; `sphere` is uniform on the sphere of
    radius sqrt(Z); `mixture` has 10 equally likely Gaussian modes, see :func:`mode_means`. Each
    dimension of the last two has mean 0 and variance 1.
    """
    return torch.from_numpy(np.stack([PRIORS[prior](g, latent) for g in generators]))


def _gaussian(generator: np.random.Generator, latent: int) -> np.ndarray:
    return generator.standard_normal(latent, dtype=np.float32)


def _uniform(generator: np.random.Generator, latent: int) -> np.ndarray:
    return generator.random(latent, dtype=np.float32) * 2 - 1


def _sphere(generator: np.random.Generator, latent: int) -> np.ndarray:
    z_Z = generator.standard_normal(latent)
    return (z_Z * (latent**0.5 / np.linalg.norm(z_Z))).astype(np.float32)


def _mixture(generator: np.random.Generator, latent: int) -> np.ndarray:
    mean_Z = mode_means(latent)[generator.integers(MODES)]
    std = (1 - MODE_RMS**2) ** 0.5
    return (mean_Z + std * generator.standard_normal(latent)).astype(np.float32)


def mode_means(latent: int) -> np.ndarray:
    """Means of the mixture's modes: float64 [K, Z].

    Mode k lies at sqrt(2) a (cos(2 pi k / K), sin(2 pi k / K)) in every pair of neighbouring
    dimensions (the last of an odd number has the cosine), a = 0.9. With the standard deviation
    sqrt(1 - a^2) inside a mode, each dimension has mean 0 and variance 1 over all modes.
    """
    angle_K1 = 2 * np.pi * np.arange(MODES)[:, None] / MODES
    odd_Z = np.arange(latent) % 2 == 1
    return 2**0.5 * MODE_RMS * np.where(odd_Z, np.sin(angle_K1), np.cos(angle_K1))


PRIORS: dict[Prior, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "sphere": _sphere,
    "mixture": _mixture,
}
MOMENTS: dict[Prior, tuple[float, float]] = {
    "gaussian": (0.0, 1.0),
    "uniform": (0.0, 1.0 / 3.0),
    "sphere": (0.0, 1.0),
    "mixture": (0.0, 1.0),
}
"""Mean and variance of each dimension."""
