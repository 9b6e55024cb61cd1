"""Style of one sample on the content of another, by mixing their latents.

Shapes: A contents, B styles, Z latent size.

A vector latent has no layers of which some are coarse and some are fine, as StyleGAN's has: which
of its coordinates carry what an eye calls style is up to the run. What is done here is plain: a
share of the coordinates, in the axes of the latents' principal components or as they are, comes
from the style and the rest from the content.
"""

import numpy as np
import torch
from torch import Tensor

from agehpc.latent.directions import Components


def mix(
    content_AZ: Tensor,
    style_BZ: Tensor,
    chosen_Z: np.ndarray,
    components: Components | None = None,
) -> Tensor:
    """Every content with every style: [A, B, Z].

    Args:
        content_AZ: latents that give the other coordinates.
        style_BZ: latents that give the chosen coordinates.
        chosen_Z: truth values, by coordinate.
        components: axes of the coordinates; None takes the latent's own dimensions.
    """
    device = content_AZ.device
    chosen = torch.from_numpy(chosen_Z).to(device)
    if components is None:
        return torch.where(chosen, style_BZ[None, :], content_AZ[:, None])
    # What the style's coordinates differ by, turned back: exact where nothing is chosen.
    axes_KZ = torch.from_numpy(components.axes_ZZ[chosen_Z]).to(device)
    gap_ABZ = style_BZ.double()[None, :] - content_AZ.double()[:, None]
    return (content_AZ.double()[:, None] + gap_ABZ @ axes_KZ.T @ axes_KZ).to(content_AZ.dtype)


def choose(latent: int, share: float, take: str) -> np.ndarray:
    """The `first` or `last` share of the coordinates as truth values [Z], one at least."""
    count = max(1, round(share * latent))
    chosen_Z = np.zeros(latent, dtype=bool)
    chosen_Z[:count] = True
    return chosen_Z if take == "first" else chosen_Z[::-1].copy()
