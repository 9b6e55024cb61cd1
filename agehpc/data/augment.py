"""Augmentation of uint8 samples, keyed by (seed, purpose, global position).

T frames (1 for images), H height, W width, C channels. All frames of a clip get the same draw.
"""

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.keyed import philox


def augment(x_THWC: np.ndarray, data: DataConfig, seed: int, position: int) -> np.ndarray:
    """Flip, shift and recolour a sample as configured; uint8 `x_THWC` in and out."""
    if data.flip and philox(seed, "flip", position).random() < 0.5:
        x_THWC = x_THWC[:, :, ::-1]
    if data.shift:
        down, right = philox(seed, "shift", position).integers(-data.shift, data.shift + 1, 2)
        x_THWC = _shift(x_THWC, int(down), int(right))
    if data.colour:
        low, high = 1 - data.colour, 1 + data.colour
        brightness, contrast = philox(seed, "colour", position).uniform(low, high, 2)
        x_THWC = _recolour(x_THWC, brightness, contrast)
    return x_THWC


def _shift(x_THWC: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move the content; the edges are replicated into what it leaves."""
    height, width = x_THWC.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return x_THWC[:, rows][:, :, columns]


def _recolour(x_THWC: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Scale all values, then their distance to the sample's mean."""
    mean = float(x_THWC.mean()) * brightness
    table = (np.arange(256) * brightness - mean) * contrast + mean
    return np.rint(table).clip(0, 255).astype(np.uint8)[x_THWC]
