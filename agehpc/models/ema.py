"""Exponential moving average of weights.

Half-life in samples rather than steps, so that it means the same at every batch size (Karras et
al. 2020), with a ramp: early on the average follows the weights closely.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def decay(batch: int, samples_seen: int, half_life_kimg: float, ramp_up: float) -> float:
    """Weight that the average keeps in one step of `batch` samples.

    Args:
        batch: samples of the step, over all ranks.
        samples_seen: samples of the run including this step.
        half_life_kimg: half-life in thousands of samples.
        ramp_up: the half-life is at most this share of `samples_seen`.

    Returns:
        0.5 ** (batch / half-life in samples); 0 where the half-life is 0.
    """
    half_life = half_life_kimg * 1000
    if ramp_up > 0:
        half_life = min(half_life, samples_seen * ramp_up)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


class Ema:
    """Averages of tensors by name, float32, on the device of the tensors.

    Args:
        weights: what to start from; copied.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.averages = {name: w.detach().float().clone() for name, w in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], keep: float) -> None:
        """average = keep * average + (1 - keep) * weight."""
        for name, average in self.averages.items():
            average.lerp_(weights[name].detach(), 1.0 - keep)
