"""How close reconstructions are to their samples as they look, beside PSNR and SSIM.

Shapes: B batch, C channels (1 or 3), S (H, W) or (T, H, W), N frames.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agehpc.errors import DataError
from agehpc.evaluate.reconstruction import frames
from agehpc.evaluate.weights import WeightsError, identify

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM's scales, from full size to a sixteenth."""
WINDOW = 11
BACKBONES = {"alex": "alexnet", "vgg": "vgg16"}
SMALLEST = 32
"""Pixels that AlexNet's last layer needs, and the five halvings of VGG16."""


def scales_of(height: int, width: int) -> int:
    """How many of the 5 scales of :func:`ms_ssim` pictures of this size have, 0 for none."""
    side = min(height, width)
    # The window at the last scale; the other divisor is torchmetrics' own limit.
    fits = [side // max(2**n, n**2) >= WINDOW for n in range(len(WEIGHTS))]
    return sum(fits)


def ms_ssim(y_BCS: np.ndarray, x_BCS: np.ndarray, scales: int = 5) -> np.ndarray:
    """Multi-scale structural similarity of each sample (Wang et al. 2003), by torchmetrics.

    Averaged over a clip's frames. Contrast and structure come from the whole windows of each
    scale, the last scale's SSIM from all windows with mirrored edges; what is negative counts as
    0. Pictures under 176 pixels have fewer than 5 scales (64 pixels: 3): of these, the weights
    are divided by their sum, and values compare with others of as many scales only.

    Args:
        y_BCS: reconstructions, uint8.
        x_BCS: samples of the same shape.
        scales: how many to take, 1 to 5.

    Returns:
        float64 [B] in [0, 1]; 1 where both are equal.

    Raises:
        DataError: pictures too small for the scales.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    assert y_BCS.shape == x_BCS.shape, (y_BCS.shape, x_BCS.shape)
    assert 1 <= scales <= len(WEIGHTS), scales
    height, width = x_BCS.shape[-2:]
    if scales > scales_of(height, width):
        raise DataError(
            f"pictures of {width} x {height} pixels are too small for MS-SSIM of {scales} scales; "
            f"they have {scales_of(height, width)}"
        )
    betas = tuple(weight / sum(WEIGHTS[:scales]) for weight in WEIGHTS[:scales])
    values = multiscale_structural_similarity_index_measure(
        torch.from_numpy(frames(y_BCS)).double(),
        torch.from_numpy(frames(x_BCS)).double(),
        data_range=255.0,
        betas=betas,
        reduction="none",
    )
    return values.double().reshape(len(x_BCS), -1).mean(1).numpy()


class Lpips:
    """Distance of pictures in a network's features (Zhang et al. 2018), version 0.1.

    torchmetrics' network and linear heads on torchvision's ImageNet backbone, which is found as
    other weights are: WeightsError where it is not, or is of another network.
    """

    def __init__(
        self,
        backbone: Literal["alex", "vgg"] = "alex",
        device: torch.device | str = "cpu",
        weights: Path | None = None,
    ) -> None:
        # Its public class would download the backbone.
        from torchmetrics.functional.image.lpips import _LPIPS

        path, digest = identify(BACKBONES[backbone], weights)
        self.fingerprint = {"backbone": backbone, "weights": digest, "heads": "0.1"}
        self.network = _LPIPS(net=backbone, pnet_rand=True)
        _load(self.network.net, path)
        self.network.to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, y_BCS: np.ndarray, x_BCS: np.ndarray) -> np.ndarray:
        """The distance of each sample, averaged over a clip's frames.

        Args:
            y_BCS: reconstructions, uint8, of at least 32 x 32 pixels.
            x_BCS: samples of the same shape.

        Returns:
            float64 [B], 0 where both are equal.

        Raises:
            DataError: pictures too small for the network.
        """
        assert y_BCS.shape == x_BCS.shape, (y_BCS.shape, x_BCS.shape)
        height, width = x_BCS.shape[-2:]
        if min(height, width) < SMALLEST:
            raise DataError(
                f"pictures of {width} x {height} pixels are too small for LPIPS, which needs "
                f"{SMALLEST} x {SMALLEST}"
            )
        distances: Tensor = self.network(self._pixels(y_BCS), self._pixels(x_BCS))
        return distances.double().cpu().reshape(len(x_BCS), -1).mean(1).numpy()

    def _pixels(self, x_BCS: np.ndarray) -> Tensor:
        x_NCHW = torch.from_numpy(frames(x_BCS)).to(self.device).float() / 127.5 - 1
        return x_NCHW.expand(-1, 3, -1, -1)


def _load(network: torch.nn.Module, path: Path) -> None:
    """Load a torchvision classifier's features: `slice2.3.weight` is its `features.3.weight`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        features = {
            name: state["features." + name.partition(".")[2]] for name in network.state_dict()
        }
        network.load_state_dict(features)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} holds no weights of LPIPS's backbone: {error}") from None
