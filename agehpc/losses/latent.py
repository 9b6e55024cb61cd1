"""Losses on latents. Shapes: B batch, Z latent size."""

import math
from typing import Literal

import torch
from torch import Tensor

KlForm = Literal["exact", "legacy_age"]
Reduction = Literal["sum", "mean"]
VARIANCE_FLOOR = 1e-6  # below it moment_kl follows the logarithm's tangent


def moment_loss(m_Z: Tensor, v_Z: Tensor, mean: float, variance: float) -> Tensor:
    """Squared distance of the latents' moments to the prior's, averaged over dimensions.

    Hand in the moments of the global batch, and the value does not depend on the world size.

    Args:
        m_Z: mean of the latents, float.
        v_Z: their biased variance.
        mean: the prior's mean.
        variance: the prior's variance.

    Returns:
        mean over Z of (m - mean)^2 + (v - variance)^2.
    """
    return ((m_Z - mean).square() + (v_Z - variance).square()).mean()


def gaussian_kl(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)), what a VAE's posterior pays (Kingma, Welling 2014).

    Args:
        mean_BZ: means of the posteriors, float.
        logvar_BZ: natural logarithms of their variances.

    Returns:
        A scalar in nats: the sum over Z, the mean over B.
    """
    # expm1: exp(logvar) - 1 loses its digits where the posterior is close to the prior.
    return 0.5 * (mean_BZ.square() + torch.expm1(logvar_BZ) - logvar_BZ).sum(1).mean()


def moment_kl(m_Z: Tensor, v_Z: Tensor, form: KlForm, reduction: Reduction) -> Tensor:
    """KL(N(m, v) || N(0, 1)) of the latents' batch moments (Ulyanov et al. 2017).

    It is not linear in a rank's moments: hand in those of the global batch, and neither value nor
    gradient depends on the world size.

    Below a variance of 1e-6 the logarithm goes on as its tangent: value and slope are continuous,
    a collapsed dimension keeps a finite slope that spreads it again, and above the floor nothing
    is changed.

    Args:
        m_Z: mean of the latents, float.
        v_Z: their biased variance, at least 0.
        form: `exact`: (v + m^2) / 2 - ln(v) / 2 - 1/2; `legacy_age`: (v^2 + m^2) / 2 - ln(v) - 1/2,
            what the paper's published code computes, the variance standing where the standard
            deviation belongs. Both are least, 0, at m = 0 and v = 1.
        reduction: over Z: `sum` as in the paper, `mean` as in its code.

    Returns:
        A scalar in nats.
    """
    tangent_Z = math.log(VARIANCE_FLOOR) + (v_Z / VARIANCE_FLOOR - 1)
    log_Z = torch.where(v_Z <= VARIANCE_FLOOR, tangent_Z, v_Z.clamp(min=VARIANCE_FLOOR).log())
    if form == "exact":
        kl_Z = 0.5 * (v_Z + m_Z.square() - log_Z - 1)
    else:
        kl_Z = 0.5 * (v_Z.square() + m_Z.square() - 1) - log_Z
    return kl_Z.sum() if reduction == "sum" else kl_Z.mean()
