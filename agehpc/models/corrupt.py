"""Corruptions that a denoising system learns to undo.

Shapes: B batch, C channels, T frames, H height, W width, S (H, W) or (T, H, W). Samples lie in
[-1, 1]. The randomness of a sample comes from a generator of its own, so that it can be keyed.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Corruption = Literal["gaussian", "salt_and_pepper", "masking", "lowres"]


def noise(
    kind: Corruption, generators: list[np.random.Generator], shape: tuple[int, ...]
) -> Tensor | None:
    """The random numbers that :func:`corrupt` needs, a row from each generator.

    Args:
        kind: which corruption.
        generators: one for each sample.
        shape: (C, *S) of a sample.

    Returns:
        float32 on the CPU: N(0, 1) [B, C, S] for `gaussian`, uniforms on [0, 1) [B, 1, S] for
        `salt_and_pepper` and [B, 2] for `masking`; None for `lowres`, which is deterministic.
    """
    if kind == "lowres":
        return None
    if kind == "gaussian":
        rows = [g.standard_normal(shape, dtype=np.float32) for g in generators]
    else:
        wanted = (1, *shape[1:]) if kind == "salt_and_pepper" else (2,)
        rows = [g.random(wanted, dtype=np.float32) for g in generators]
    return torch.from_numpy(np.stack(rows))


def corrupt(kind: Corruption, x_BCS: Tensor, level: float, draws: Tensor | None) -> Tensor:
    """Corrupted samples, in [-1, 1].

    `gaussian`: N(0, I) noise, then clipped to the range. `level` is its standard deviation on
    pixels in [0, 1], so that 2 * level is added here. `salt_and_pepper`: a share `level` of the
    pixels of every frame turns black or white (-1 or 1) in all channels, half and half.
    `masking`: one square box, `level` of the height and of the width, is set to mid grey (0),
    which shows on a black background; it lies wholly inside, anywhere, and is the same in all
    frames. `lowres`: every frame is reduced `level` (2 or 4) times by antialiased bicubic
    interpolation and enlarged again by bicubic interpolation, then clipped.

    Args:
        kind: which corruption.
        x_BCS: clean samples, float32 or float64, in [-1, 1].
        level: how much: at least 0, at most 1 for the two that take a share.
        draws: what :func:`noise` made, on the device of `x_BCS`.

    Returns:
        The shape and dtype of `x_BCS`; differentiable where nothing was clipped or replaced.
    """
    if kind == "lowres":
        assert level in (2, 4), level
        factor = int(level)
        return upscale(downscale(x_BCS, factor), factor).clamp(-1, 1)
    assert draws is not None, f"{kind} needs draws"
    if kind == "gaussian":
        return (x_BCS + 2 * level * draws.to(x_BCS.dtype)).clamp(-1, 1)
    if kind == "salt_and_pepper":
        x_BCS = torch.where(draws < level, 1.0, x_BCS)
        return torch.where(draws < level / 2, -1.0, x_BCS)
    return x_BCS.masked_fill(box_mask(x_BCS, level, draws), 0.0)


def box_mask(x_BCS: Tensor, share: float, u_B2: Tensor) -> Tensor:
    """True inside a box of `share` of the height and width: bool [B, 1, (1,) H, W].

    Args:
        x_BCS: samples, for their shape and device.
        share: between 0 and 1; the sides are rounded to whole pixels.
        u_B2: uniforms on [0, 1), which place the box wholly inside, vertically and horizontally.
    """
    assert 0 <= share <= 1, share
    inside = []
    for size, u_B in zip(x_BCS.shape[-2:], u_B2.unbind(1), strict=True):
        side = int(share * size + 0.5)
        first_B = (u_B * (size - side + 1)).long()
        offset_BN = torch.arange(size, device=x_BCS.device) - first_B[:, None]
        inside.append((offset_BN >= 0) & (offset_BN < side))
    mask_BHW = inside[0][:, :, None] & inside[1][:, None, :]
    return mask_BHW.view(len(x_BCS), *(1,) * (x_BCS.dim() - 3), *mask_BHW.shape[1:])


def downscale(x_BCS: Tensor, factor: int) -> Tensor:
    """Every frame `factor` times smaller by antialiased bicubic interpolation; differentiable."""
    assert all(size % factor == 0 for size in x_BCS.shape[-2:]), (x_BCS.shape, factor)
    return _resized(x_BCS, x_BCS.shape[-2] // factor, x_BCS.shape[-1] // factor)


def upscale(x_BCS: Tensor, factor: int) -> Tensor:
    """Every frame `factor` times larger by bicubic interpolation; differentiable."""
    return _resized(x_BCS, x_BCS.shape[-2] * factor, x_BCS.shape[-1] * factor)


def _resized(x_BCS: Tensor, height: int, width: int) -> Tensor:
    """Resize the last two dimensions; the kernel is that of Pillow's bicubic (a = -1/2)."""
    frames = x_BCS.reshape(-1, 1, *x_BCS.shape[-2:])
    frames = F.interpolate(frames, (height, width), mode="bicubic", antialias=True)
    return frames.view(*x_BCS.shape[:-2], height, width)
