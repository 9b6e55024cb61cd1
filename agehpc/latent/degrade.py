"""What restoration undoes: noise, a hole, a lower resolution.

Shapes: B batch, C channels, S (H, W) or (T, H, W). Samples lie in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agehpc.data.keyed import philox
from agehpc.errors import UsageError
from agehpc.models.corrupt import downscale, upscale

Task = Literal["denoise", "inpaint", "superres2", "superres4"]
FACTORS: dict[Task, int] = {"superres2": 2, "superres4": 4}


@dataclass(frozen=True)
class Degraded:
    """Degraded samples and how they came about.

    Attributes:
        seen_BCS: what is left, at the sample's size: noisy, with a grey hole, or enlarged again
            from the lower resolution by bicubic interpolation; in [-1, 1].
        measured: what a restored sample must agree with: `seen_BCS`, or the low resolution.
        measure: the same degradation of any samples, without noise; differentiable.
        correct: puts back into restored samples what is known for certain: the pixels around a
            hole, or the low resolution (its difference to the restored one's, enlarged: a step of
            back-projection, Irani and Peleg 1991).
        known: share of the elements of `measured` that say something.
    """

    seen_BCS: Tensor
    measured: Tensor
    measure: Callable[[Tensor], Tensor]
    correct: Callable[[Tensor], Tensor]
    known: float = 1.0


def degrade(
    task: Task,
    x_BCS: Tensor,
    positions: list[int],
    *,
    noise: float = 0.2,
    box: float = 0.5,
    seed: int = 0,
) -> Degraded:
    """Degrade samples.

    Args:
        task: `denoise` adds Gaussian noise and clips to the range; `inpaint` hides a box in the
            middle (of every frame); `superres2` and `superres4` shrink by antialiased bicubic
            interpolation (each frame).
        x_BCS: samples in [-1, 1].
        positions: of the samples in their split: noise is keyed by (seed, position).
        noise: standard deviation of the noise, on pixels in [0, 1].
        box: side of the hole as a share of the sample's.
        seed: of the noise.

    Raises:
        UsageError: a hole of no pixels, or of all.
    """
    if task == "denoise":
        draws = [philox(seed, "restore", n).standard_normal(x_BCS.shape[1:]) for n in positions]
        noise_BCS = torch.from_numpy(np.stack(draws)).to(x_BCS)
        seen_BCS = (x_BCS + 2 * noise * noise_BCS).clamp(-1, 1)
        return Degraded(seen_BCS, seen_BCS, _unchanged, _unchanged)
    if task == "inpaint":
        keep = torch.ones(x_BCS.shape[-2:]).to(x_BCS)
        height, width = x_BCS.shape[-2:]
        tall, wide = round(box * height), round(box * width)
        if not 0 < tall < height or not 0 < wide < width:
            raise UsageError(
                f"--box {box:g} of {height} x {width} pixels is a hole of {tall} x {wide}: "
                "something has to be hidden, and something left"
            )
        top, left = (height - tall) // 2, (width - wide) // 2
        keep[top : top + tall, left : left + wide] = 0
        hidden_BCS = x_BCS * keep
        return Degraded(
            hidden_BCS,
            hidden_BCS,
            lambda y_BCS: y_BCS * keep,
            lambda y_BCS: torch.where(keep > 0, hidden_BCS, y_BCS),
            float(keep.mean()),
        )
    factor = FACTORS[task]
    # The kernel of the denoising system's corruption: what its networks were trained to undo.
    low = downscale(x_BCS, factor)
    return Degraded(
        upscale(low, factor).clamp(-1, 1),
        low,
        lambda y_BCS: downscale(y_BCS, factor),
        lambda y_BCS: (y_BCS + upscale(low - downscale(y_BCS, factor), factor)).clamp(-1, 1),
    )


def _unchanged(x_BCS: Tensor) -> Tensor:
    return x_BCS
