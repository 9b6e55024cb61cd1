"""I3D of Kinetics-400, whose logits the Frechet Video Distance is defined on.

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (2017); Unterthiner et al., "Towards
Accurate Generative Models of Video" (2018) for FVD. The port of StyleGAN-V, called as it does.
"""

import warnings
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from agehpc.evaluate.features.base import Extractor


class I3D(Extractor):
    """Logits before the softmax, 400 of a clip."""

    name = "i3d"
    takes: ClassVar[Literal["image", "clip"]] = "clip"
    sizes: ClassVar[dict[str, int]] = {"features": 400}
    side = 224
    # The network's own: bilinear without antialiasing, and from 0..255 to [-1, 1].
    resizes = ("inside",)

    def load(self, path: Path) -> nn.Module:
        """Return the network."""
        with warnings.catch_warnings():
            # It is published in no other form.
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", FutureWarning)
            return torch.jit.load(path, map_location="cpu")

    def outputs(self, x_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return the logits of grey or RGB clips."""
        x = x_BCTHW.expand(-1, 3, -1, -1, -1)
        return {"features": self.network(x, rescale=True, resize=True, return_features=True)}
