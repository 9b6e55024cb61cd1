"""Differentiable augmentation of what a discriminator sees (Zhao et al. 2020, DiffAugment).

Shapes: B batch, C channels, T frames, H height, W width, S (H, W) or (T, H, W), K uniforms. All
frames of a clip get the same draw. Differentiable to any order, without a loop over samples or a
wait for the device; the randomness is handed in, so that it can be keyed by sample.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Policy = Literal["colour", "translation", "cutout"]


def draws(policies: Sequence[Policy]) -> int:
    """K: how many uniforms on [0, 1) each sample needs."""
    return sum(POLICIES[name][0] for name in policies)


def augment(x_BCS: Tensor, policies: Sequence[Policy], uniforms_BK: Tensor) -> Tensor:
    """Apply the policies in the order given.

    `colour`: add u - 1/2 to all values (brightness), scale the distance to a pixel's mean over
    channels by 2 u (saturation; the identity for one channel) and the distance to the sample's
    mean by u + 1/2 (contrast). `translation`: move the content by whole pixels, up to 1/8 of the
    size each way; 0 fills what it leaves. `cutout`: set a box of half the size to 0; its centre
    lies anywhere in the sample, so part of it may hang over the edge.

    Args:
        x_BCS: samples, floating, in [-1, 1]; what is returned may leave the range.
        policies: which, in order.
        uniforms_BK: float32 on [0, 1), K = `draws(policies)`, taken in the order of the policies.

    Returns:
        Augmented samples in the shape and dtype of `x_BCS`.
    """
    assert uniforms_BK.shape == (len(x_BCS), draws(policies)), uniforms_BK.shape
    first = 0
    for name in policies:
        count, apply = POLICIES[name]
        x_BCS = apply(x_BCS, uniforms_BK[:, first : first + count])
        first += count
    return x_BCS


def _colour(x_BCS: Tensor, u_B3: Tensor) -> Tensor:
    everything = tuple(range(1, x_BCS.dim()))
    brightness, saturation, contrast = (
        u_B.to(x_BCS.dtype).view(-1, *(1 for _ in everything)) for u_B in u_B3.unbind(1)
    )
    x_BCS = x_BCS + (brightness - 0.5)
    if x_BCS.shape[1] > 1:
        grey = x_BCS.mean(1, keepdim=True)
        x_BCS = (x_BCS - grey) * (2 * saturation) + grey
    mean = x_BCS.mean(everything, keepdim=True)
    return (x_BCS - mean) * (contrast + 0.5) + mean


def _translation(x_BCS: Tensor, u_B2: Tensor) -> Tensor:
    for dim, u_B in zip((-2, -1), u_B2.unbind(1), strict=True):
        size = x_BCS.shape[dim]
        largest = int(size / 8 + 0.5)
        shift_B = _whole(u_B, 2 * largest + 1) - largest
        source_BN = torch.arange(size, device=x_BCS.device) - shift_B[:, None]
        inside_BN = (source_BN >= 0) & (source_BN < size)
        # Around the edge instead of clamped: no pixel is read twice, so the backward pass adds
        # nothing up in an order that differs between runs.
        index = _along(source_BN % size, dim, x_BCS).expand_as(x_BCS)
        x_BCS = x_BCS.gather(dim, index) * _along(inside_BN, dim, x_BCS)
    return x_BCS


def _cutout(x_BCS: Tensor, u_B2: Tensor) -> Tensor:
    inside = []
    for dim, u_B in zip((-2, -1), u_B2.unbind(1), strict=True):
        size = x_BCS.shape[dim]
        side = int(size / 2 + 0.5)
        # A box of even side has its centre between pixels: one place more.
        top_B = _whole(u_B, size + 1 - side % 2) - side // 2
        offset_BN = torch.arange(size, device=x_BCS.device) - top_B[:, None]
        inside.append(_along((offset_BN >= 0) & (offset_BN < side), dim, x_BCS))
    return x_BCS * ~(inside[0] & inside[1])


def _whole(u_B: Tensor, count: int) -> Tensor:
    """Whole numbers 0 .. count - 1, int64, equally likely for uniforms on [0, 1)."""
    return (u_B * count).long()


def _along(a_BN: Tensor, dim: int, x_BCS: Tensor) -> Tensor:
    """View [B, N] so that N lies along `dim` of `x_BCS`."""
    shape = [1] * x_BCS.dim()
    shape[0], shape[dim] = a_BN.shape
    return a_BN.view(shape)


POLICIES: dict[Policy, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "colour": (3, _colour),
    "translation": (2, _translation),
    "cutout": (2, _cutout),
}
"""Uniforms that a policy needs for each sample, and what it does with them."""
