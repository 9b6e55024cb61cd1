"""How well latents match their prior: as a whole by MMD, each dimension by Kolmogorov-Smirnov.

Shapes: N and M samples, Z latent size, K modes, R rows of a block.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agehpc.errors import DataError
from agehpc.models.prior import MODE_RMS, MOMENTS, Prior, draw, mode_means

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the kernel, around the distance that draws of the prior have (Tolstikhin et al. 2018)."""
LEVEL = 0.05
"""Chance that of a perfect match any dimension at all is found to differ."""
PAIRS = 2**18
"""Kernel values that are held at once: they fit into a processor's cache."""


def prior_match(z_NZ: Tensor, prior: Prior, seed: int = 0) -> dict[str, float]:
    """Figures of how latents differ from their prior.

    Args:
        z_NZ: latents, any real dtype, on the CPU.
        prior: what they are to match.
        seed: of the N draws of the prior that :func:`mmd` compares them with.

    Returns:
        `mmd`: :func:`mmd` against the draws, around 0 for a match; `mmd_draws`: the same of other
        draws, for the size of chance; `ks`: the largest statistic of :func:`ks` over dimensions,
        in [0, 1]; `ks_p`: the smallest corrected p-value; `ks_rejected`: the share of dimensions
        whose corrected p-value is below 0.05.
    """
    draws = np.random.default_rng(seed)
    y_NZ, other_NZ = (draw(prior, [draws] * len(z_NZ), z_NZ.shape[1]) for _ in range(2))
    statistic_Z, p_Z = ks(z_NZ, prior)
    return {
        "mmd": mmd(z_NZ, y_NZ, prior),
        "mmd_draws": mmd(other_NZ, y_NZ, prior),
        "ks": float(statistic_Z.max()),
        "ks_p": float(p_Z.min()),
        "ks_rejected": float((p_Z < LEVEL).mean()),
    }


def mmd(x_NZ: Tensor, y_MZ: Tensor, prior: Prior) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012), float64.

    The kernel is the mean over `SCALES` of the inverse multiquadratic C / (C + |x - y|^2),
    C = 2 Z v s for a prior of variance v and the scale s, as of Wasserstein autoencoders: fixed by
    the prior, so that values of different runs compare. It lies in [0, 1].

    Args:
        x_NZ: latents, any real dtype.
        y_MZ: draws of the prior, or other latents, on the same device.
        prior: whose variance sets the kernel's width.

    Returns:
        The value, around 0 (and so also below it) where both have one distribution.

    Raises:
        DataError: one has fewer than 2 samples.
    """
    assert x_NZ.ndim == y_MZ.ndim == 2, (x_NZ.shape, y_MZ.shape)
    assert x_NZ.shape[1] == y_MZ.shape[1], (x_NZ.shape, y_MZ.shape)
    n, m = len(x_NZ), len(y_MZ)
    if min(n, m) < 2:
        raise DataError(f"MMD needs 2 or more latents of each kind, but there are {min(n, m)}")
    x_NZ, y_MZ = x_NZ.detach().double(), y_MZ.detach().double()
    width = 2 * x_NZ.shape[1] * MOMENTS[prior][1]
    # A latent's kernel with itself is 1, and is left out.
    within_x = (_kernel_sum(x_NZ, x_NZ, width) - n) / (n * (n - 1))
    within_y = (_kernel_sum(y_MZ, y_MZ, width) - m) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x_NZ, y_MZ, width) / (n * m)


def ks(z_NZ: Tensor, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided Kolmogorov-Smirnov test of each dimension against the prior's marginal.

    By scipy; p-values are corrected for the number of dimensions by Holm (1979), which needs no
    independence between them.

    Args:
        z_NZ: latents, any real dtype.
        prior: what they are to match.

    Returns:
        Statistic and corrected p-value of each dimension, float64 [Z], both in [0, 1].

    Raises:
        DataError: latents of the sphere of one dimension, which has two points alone.
    """
    from scipy.stats import kstest

    z = z_NZ.detach().double().cpu().numpy()
    latent = z.shape[1]
    if prior == "sphere" and latent == 1:
        raise DataError(
            "the sphere in one dimension has two points, which the Kolmogorov-Smirnov test cannot "
            "judge: take more latent dimensions"
        )
    marginal = MARGINALS[prior]
    found = [kstest(z[:, d], lambda x, d=d: marginal(x, d, latent)) for d in range(latent)]
    return np.array([f.statistic for f in found]), _holm(np.array([f.pvalue for f in found]))


def _holm(p_Z: np.ndarray) -> np.ndarray:
    order = np.argsort(p_Z)
    stepped = np.maximum.accumulate(p_Z[order] * np.arange(len(p_Z), 0, -1))
    corrected = np.empty_like(p_Z)
    corrected[order] = stepped.clip(max=1)
    return corrected


def _kernel_sum(x_NZ: Tensor, y_MZ: Tensor, width: float) -> float:
    total = 0.0
    for x_RZ in x_NZ.split(max(1, PAIRS // len(y_MZ))):
        d_RM = torch.cdist(x_RZ, y_MZ).square_()
        for scale in SCALES:
            c = width * scale
            total += c * float((d_RM + c).reciprocal_().sum()) / len(SCALES)
    return total


def _gaussian(x: np.ndarray, dimension: int, latent: int) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr(x)


def _uniform(x: np.ndarray, dimension: int, latent: int) -> np.ndarray:
    return (x.clip(-1, 1) + 1) / 2


def _sphere(x: np.ndarray, dimension: int, latent: int) -> np.ndarray:
    """x^2 / Z of a coordinate has the distribution Beta(1/2, (Z - 1) / 2)."""
    from scipy.special import betainc

    share = np.square(x / latent**0.5).clip(max=1)
    return (1 + np.sign(x) * betainc(0.5, (latent - 1) / 2, share)) / 2


def _mixture(x: np.ndarray, dimension: int, latent: int) -> np.ndarray:
    from scipy.special import ndtr

    mean_K = mode_means(latent)[:, dimension]
    return ndtr((x[..., None] - mean_K) / (1 - MODE_RMS**2) ** 0.5).mean(-1)


MARGINALS: dict[Prior, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "sphere": _sphere,
    "mixture": _mixture,
}
"""Distribution functions: of values, the dimension and the latent size."""
