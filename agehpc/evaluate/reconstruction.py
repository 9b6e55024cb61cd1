"""How close reconstructions are to their samples.

Shapes: B batch, C channels, S (H, W) or (T, H, W).
"""

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


def ssim(y_BCS: np.ndarray, x_BCS: np.ndarray) -> np.ndarray:
    """Structural similarity of each sample (Wang et al. 2004), averaged over a clip's frames.

    Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03, over the whole picture with
    mirrored edges, by torchmetrics; the paper's code leaves out the outer 5 pixels.

    Args:
        y_BCS: reconstructions, uint8.
        x_BCS: samples of the same shape.

    Returns:
        float64 [B]; 1 where both are equal.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    def pixels(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames(x)).double()

    values = structural_similarity_index_measure(
        pixels(y_BCS), pixels(x_BCS), data_range=255.0, reduction="none"
    )
    assert isinstance(values, torch.Tensor)
    return values.reshape(len(x_BCS), -1).mean(1).numpy()


def frames(x_BCS: np.ndarray) -> np.ndarray:
    """Pictures as they are, and the frames of clips, sample after sample: [N, C, H, W]."""
    if x_BCS.ndim == 4:
        return x_BCS
    x_BTCHW = x_BCS.swapaxes(1, 2)
    return x_BTCHW.reshape(-1, *x_BTCHW.shape[2:])
