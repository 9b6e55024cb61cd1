"""Losses on latents. Shapes: B batch, Z latent size."""

from torch import Tensor


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
