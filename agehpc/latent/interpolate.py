"""Ways between two latents.

Shapes: N pairs, K points on the way, Z latent size.
"""

import torch
from torch import Tensor

from agehpc.errors import UsageError

_PARALLEL = 1e-4  # radians: below it the arc is the line, to rounding


def lerp(a_NZ: Tensor, b_NZ: Tensor, t_K: Tensor) -> Tensor:
    """The straight line from a to b at t in [0, 1]: [N, K, Z]."""
    return torch.lerp(a_NZ[:, None], b_NZ[:, None], t_K[None, :, None].to(a_NZ))


def slerp(a_NZ: Tensor, b_NZ: Tensor, t_K: Tensor) -> Tensor:
    """The great arc from a to b at t in [0, 1]: [N, K, Z] (Shoemake 1985; White 2016).

    sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b with w the angle between a and b: latents
    between two Gaussian draws keep a draw's length, where the line passes nearer to the origin.
    Where a and b are parallel it is the line.

    Raises:
        UsageError: two latents that point in opposite directions: no arc is the shortest.
    """
    a, b = a_NZ.double(), b_NZ.double()
    cosine_N = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    w_N11 = cosine_N.acos()[:, None, None]
    if bool((torch.pi - w_N11 < _PARALLEL).any()):
        raise UsageError("two latents point in opposite directions; interpolate them by a line")
    t = t_K[None, :, None].double().to(a.device)
    straight = w_N11 < _PARALLEL
    w = torch.where(straight, 1.0, w_N11)
    arc = (torch.sin((1 - t) * w) * a[:, None] + torch.sin(t * w) * b[:, None]) / torch.sin(w)
    return torch.where(straight, torch.lerp(a[:, None], b[:, None], t), arc).to(a_NZ.dtype)
