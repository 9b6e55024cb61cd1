"""How close reconstructions are to their samples."""

import numpy as np


def psnr(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each sample, peak 255.

    Args:
        y: reconstructions [B, ...], any real dtype, in [0, 255].
        x: samples of the same shape.

    Returns:
        float64 [B] in dB; infinite where both are equal.
    """
    difference = np.asarray(y, dtype=np.float64) - np.asarray(x, dtype=np.float64)
    error = np.square(difference).reshape(len(difference), -1).mean(1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)
