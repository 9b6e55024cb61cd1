"""Augmentation of uint8 samples, keyed by (seed, purpose, global position).

T frames (1 for images), H height, W width, C channels. All frames of a clip get the same draw.
"""

import numpy as np

from agehpc.config.schema import DataConfig
from agehpc.data.keyed import philox


def augment(
    x_THWC: np.ndarray, data: DataConfig, seed: int, position: int, domain: str = ""
) -> np.ndarray:
    """Flip, shift and recolour a sample as configured; uint8 `x_THWC` in and out.

    Samples at one position get different draws where `domain` differs.
    """
    x_THWC = _move(x_THWC, data, seed, position, domain)
    table = _colours(x_THWC, data, seed, position, domain)
    return x_THWC if table is None else table[x_THWC]


def augment_pair(
    x_THWC: np.ndarray, input_THWC: np.ndarray, data: DataConfig, seed: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Augment a target and its input image alike, so that one still belongs to the other.

    Both are moved by the same draw, and recoloured by the target's own change of values: a target
    that alone grew lighter could not be told from its input. (`check` refuses colour for pairs
    where this would not do.)
    """
    x_THWC = _move(x_THWC, data, seed, position, "")
    input_THWC = _move(input_THWC, data, seed, position, "")
    table = _colours(x_THWC, data, seed, position, "")
    return (x_THWC, input_THWC) if table is None else (table[x_THWC], table[input_THWC])


def _move(
    x_THWC: np.ndarray, data: DataConfig, seed: int, position: int, domain: str
) -> np.ndarray:
    if data.flip and philox(seed, f"flip{domain}", position).random() < 0.5:
        x_THWC = x_THWC[:, :, ::-1]
    if data.shift:
        rng = philox(seed, f"shift{domain}", position)
        down, right = rng.integers(-data.shift, data.shift + 1, 2)
        x_THWC = _shift(x_THWC, int(down), int(right))
    return x_THWC


def _shift(x_THWC: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move the content; the edges are replicated into what it leaves."""
    height, width = x_THWC.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return x_THWC[:, rows][:, :, columns]


def _colours(
    x_THWC: np.ndarray, data: DataConfig, seed: int, position: int, domain: str
) -> np.ndarray | None:
    """Return the new value of every value: all scaled, then their distance to the mean."""
    if not data.colour:
        return None
    low, high = 1 - data.colour, 1 + data.colour
    brightness, contrast = philox(seed, f"colour{domain}", position).uniform(low, high, 2)
    mean = float(x_THWC.mean()) * brightness
    table = (np.arange(256) * brightness - mean) * contrast + mean
    return np.rint(table).clip(0, 255).astype(np.uint8)
